//! Names of places in the kernel's code.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Every function of the kernel and its modules, one a line: address, type, name, module.
const KALLSYMS: &str = "/proc/kallsyms";

/// A place in a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symbol {
    /// The function, with the endings that the compiler gave to what it made of it.
    pub name: String,
    /// Bytes after its beginning.
    pub offset: u64,
}

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{:#x}", self.name, self.offset)
    }
}

/// The list as somebody opened it who might read it.
static KEPT: OnceLock<File> = OnceLock::new();

/// Opens the list, for [`locate`] to read when the process has given its privileges up: the kernel shows addresses to whoever
/// might see them when the file was opened.
///
/// # Errors
/// There is no list.
pub fn keep_open() -> io::Result<()> {
    let _ = KEPT.set(File::open(KALLSYMS)?); // once is enough
    Ok(())
}

fn from_start(mut file: &File) -> io::Result<&File> {
    file.rewind()?;
    Ok(file)
}

/// What is at these addresses; of those that are missing the kernel does not tell (`kernel.kptr_restrict`). Each is looked up
/// once, as the list is long (some 50 ms), and not kept, as it is large.
#[must_use]
pub fn locate(addresses: impl IntoIterator<Item = u64>) -> HashMap<u64, Symbol> {
    static KNOWN: Mutex<Option<HashMap<u64, Option<Symbol>>>> = Mutex::new(None);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.get_or_insert_default();
    let wanted: Vec<_> = addresses.into_iter().collect();
    let mut new: Vec<_> = wanted.iter().copied().filter(|address| !known.contains_key(address)).collect();
    new.sort_unstable();
    new.dedup();
    if !new.is_empty() {
        let found = match KEPT.get() {
            Some(kept) => from_start(kept).and_then(|file| search(BufReader::new(file), &new)),
            None => File::open(KALLSYMS).and_then(|file| search(BufReader::new(file), &new)),
        };
        known.extend(found.unwrap_or_else(|_| new.iter().map(|address| (*address, None)).collect()));
    }
    wanted.into_iter().filter_map(|address| Some((address, known.get(&address)?.clone()?))).collect()
}

/// The last function that begins at or before each of these addresses, which are sorted.
fn search(mut lines: impl BufRead, addresses: &[u64]) -> io::Result<Vec<(u64, Option<Symbol>)>> {
    // Of the functions between an address and the one before it, the last.
    let mut nearest: Vec<Option<(u64, String)>> = vec![None; addresses.len()];
    let mut line = String::new();
    while {
        line.clear();
        lines.read_line(&mut line)? > 0
    } {
        let Some((start, name)) = function(&line) else { continue };
        let after = addresses.partition_point(|address| *address < start);
        let Some(best) = nearest.get_mut(after) else { continue };
        // Of several names of one function the first.
        if best.as_ref().is_none_or(|(known, _)| *known < start) {
            *best = Some((start, name.to_owned()));
        }
    }
    let mut last = None;
    let found = addresses.iter().zip(nearest).map(|(address, best)| {
        last = best.or(last.take());
        let symbol =
            last.as_ref().map(|(start, name)| Symbol { name: name.clone(), offset: address - start });
        (*address, symbol)
    });
    Ok(found.collect())
}

/// Address and name of a line; none where it is hidden or no function.
fn function(line: &str) -> Option<(u64, &str)> {
    let mut words = line.split_ascii_whitespace();
    let (address, kind, name) = (words.next()?, words.next()?, words.next()?);
    let address = u64::from_str_radix(address, 16).ok().filter(|address| *address != 0)?;
    (matches!(kind, "t" | "T" | "w" | "W") && !name.starts_with("__pi_")).then_some((address, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "\
        0000000000000000 A fixed_percpu_data\n\
        ffffffff81000100 T ip_rcv\n\
        ffffffff81000100 T __pi_ip_rcv\n\
        ffffffff81000200 t ip_rcv_finish_core.isra.0\n\
        ffffffff81000280 d not_a_function\n\
        ffffffff81000300 T ip_forward\n\
        ffffffffc0000000 t ovs_dp_process\t[openvswitch]\n";

    #[test]
    fn an_address_is_in_the_last_function_before_it() {
        let addresses = [
            0x10,
            0xffff_ffff_8100_0100,
            0xffff_ffff_8100_0290,
            0xffff_ffff_8100_02ff,
            0xffff_ffff_c000_0010,
        ];
        let found = search(LIST.as_bytes(), &addresses).unwrap();
        let texts: Vec<_> = found.into_iter().map(|(_, symbol)| symbol.map(|s| s.to_string())).collect();
        let expected = [
            None,
            Some("ip_rcv+0x0"),
            Some("ip_rcv_finish_core.isra.0+0x90"),
            Some("ip_rcv_finish_core.isra.0+0xff"),
            Some("ovs_dp_process+0x10"),
        ];
        assert_eq!(texts, expected.map(|text| text.map(str::to_owned)));
    }

    #[test]
    fn what_the_kernel_hides_is_not_found() {
        let hidden = "0000000000000000 T ip_rcv\n0000000000000000 t ip_forward\n";
        assert_eq!(search(hidden.as_bytes(), &[0x1000]).unwrap(), [(0x1000, None)]);
    }

    #[test]
    fn this_kernel_tells_where_its_own_functions_are() {
        let text = std::fs::read_to_string(KALLSYMS).unwrap_or_default();
        let start = text.lines().filter_map(function).find(|(_, name)| *name == "kfree_skb_list_reason");
        let Some((start, name)) = start else { return };
        let found = locate([start + 4]);
        assert_eq!(found.get(&(start + 4)), Some(&Symbol { name: name.to_owned(), offset: 4 }));
    }
}
