//! The fuzzer's targets with its seeds, its corpus, and a fixed number of mutations of them.

#[path = "../../../../fuzz/targets/mod.rs"]
mod targets;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use self::targets::{Check, TARGETS};

/// Of each input.
const MUTATIONS: usize = 2000;

fn folder(of: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz").join(of)
}

/// Files of a folder by name; none if there is no such folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().map(|f| f.path()).collect();
    files.sort();
    files
}

/// Whether the check holds; if not, the message says for which bytes.
#[track_caller]
fn holds(target: &str, check: Check, what: &str, data: &[u8]) {
    if catch_unwind(|| check(data)).is_err() {
        let hex = data.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        panic!("target {target} fails for {what}: xxd -r -p <<< {hex}");
    }
}

/// xorshift64*: the same numbers in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit.max(1)
    }

    /// A few changes: bits turned, bytes put in or taken out, the end cut off, a part of another input.
    fn mutate(&mut self, data: &[u8], other: &[u8]) -> Vec<u8> {
        let mut data = data.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(data.len());
            match self.below(6) {
                0 if !data.is_empty() => data[at] ^= 1 << self.below(8),
                1 if !data.is_empty() => data[at] = [0, 1, 0x7f, 0x80, 0xff][self.below(5)],
                2 => data.insert(at, self.below(256) as u8),
                3 if !data.is_empty() => drop(data.remove(at)),
                4 => data.truncate(at),
                _ => data.splice(at.., other[self.below(other.len())..].iter().copied()).for_each(drop),
            }
        }
        data
    }
}

#[test]
fn every_target_has_seeds_and_every_folder_of_seeds_a_target() {
    let targets: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let name = |path: &PathBuf| path.file_name().map(|n| n.to_string_lossy().into_owned());
    let folders: BTreeSet<_> = files(&folder("seeds")).iter().filter_map(name).collect();
    assert_eq!(targets, folders);
    for (name, _) in TARGETS {
        assert!(!files(&folder("seeds").join(name)).is_empty(), "{name} has no seed");
    }
}

#[test]
fn seeds_and_what_is_made_of_them_break_no_promise() {
    for (target, check) in TARGETS {
        let read = |from: &str| -> Vec<_> {
            let paths = files(&folder(from).join(target)).into_iter();
            paths.map(|path| (fs::read(&path).expect("an input"), path.display().to_string())).collect()
        };
        let inputs = read("seeds");
        for (data, path) in inputs.iter().chain(&read("corpus")) {
            holds(target, *check, path, data);
        }
        let mut random = Random(0x5eed);
        for (data, path) in &inputs {
            for _ in 0..MUTATIONS {
                let (other, _) = &inputs[random.below(inputs.len())];
                let mutated = random.mutate(data, other);
                holds(target, *check, &format!("a mutation of {path}"), &mutated);
            }
        }
    }
}
