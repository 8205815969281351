//! What the running kernel says of itself in its BTF: which tracepoints there are and what they pass, and what the numbers
//! of its enumerations mean. Asked in place of version strings, because distributions take over changes into any version.

use std::collections::HashMap;
use std::sync::OnceLock;

use libbpf_rs::btf::Btf;
use libbpf_rs::btf::types::{Enum, Enum64, FuncProto, Ptr, Struct, Typedef};
use libbpf_rs::{ReferencesType, btf};

/// BTF of the running kernel.
#[derive(Debug)]
pub struct Vmlinux(Btf<'static>);

// SAFETY: the types are only read after they were loaded, and libbpf keeps no state of them per thread.
unsafe impl Send for Vmlinux {}
// SAFETY: as above.
unsafe impl Sync for Vmlinux {}

impl Vmlinux {
    /// Read once, some 10 ms; none where the kernel has no BTF.
    #[must_use]
    pub fn get() -> Option<&'static Self> {
        static ONCE: OnceLock<Option<Vmlinux>> = OnceLock::new();
        ONCE.get_or_init(|| Btf::from_vmlinux().ok().map(Self)).as_ref()
    }

    /// How many arguments a tracepoint passes; none where there is no such tracepoint.
    #[must_use]
    pub fn arguments(&self, tracepoint: &str) -> Option<usize> {
        Some(self.prototype(tracepoint)?.len().saturating_sub(1))
    }

    /// Which argument of a tracepoint, counted from 0, is of this enumeration.
    #[must_use]
    pub fn argument_of_enum(&self, tracepoint: &str, name: &str) -> Option<usize> {
        let prototype = self.prototype(tracepoint)?;
        let is_it = |at: usize| {
            let ty = prototype.get(at)?.ty;
            let found = self.0.type_by_id::<btf::BtfType<'_>>(ty)?.skip_mods_and_typedefs();
            (found.is_any_enum() && found.name().is_some_and(|n| n == name)).then_some(at)
        };
        (1..prototype.len()).find_map(is_it).map(|at| at - 1)
    }

    /// The function that the kernel calls at a tracepoint; its first argument is the kernel's own.
    fn prototype(&self, tracepoint: &str) -> Option<FuncProto<'_>> {
        let typedef: Typedef<'_> = self.0.type_by_name(&format!("btf_trace_{tracepoint}"))?;
        let pointer: Ptr<'_> = typedef.referenced_type().try_into().ok()?;
        pointer.referenced_type().try_into().ok()
    }

    /// Names of an enumeration's values, without what comes before and after: of `SKB_DROP_REASON_NO_SOCKET` with the prefix
    /// `SKB_DROP_REASON_` is left `NO_SOCKET`. Empty where there is no such enumeration. Of several names for one value the
    /// first.
    #[must_use]
    pub fn names(&self, enumeration: &str, prefix: &str) -> HashMap<u64, String> {
        let mut names = HashMap::new();
        let mut add = |name: Option<&std::ffi::OsStr>, value: u64| {
            let Some(name) = name.and_then(|n| n.to_str()) else { return };
            names.entry(value).or_insert_with(|| name.strip_prefix(prefix).unwrap_or(name).to_owned());
        };
        if let Some(found) = self.0.type_by_name::<Enum<'_>>(enumeration) {
            found.iter().for_each(|v| add(v.name, v.value.cast_unsigned_u64()));
        } else if let Some(found) = self.0.type_by_name::<Enum64<'_>>(enumeration) {
            found.iter().for_each(|v| add(v.name, v.value.cast_unsigned_u64()));
        }
        names
    }

    /// Whether there is a structure of this name.
    #[must_use]
    pub fn has_struct(&self, name: &str) -> bool {
        self.0.type_by_name::<Struct<'_>>(name).is_some()
    }

    /// Whether a structure has a member of this name.
    #[must_use]
    pub fn has_member(&self, structure: &str, member: &str) -> bool {
        let found: Option<Struct<'_>> = self.0.type_by_name(structure);
        found.is_some_and(|s| s.iter().any(|m| m.name.is_some_and(|n| n == member)))
    }

    /// Whether some enumeration, which need not have a name, has a value of this name.
    #[must_use]
    pub fn has_enumerator(&self, name: &str) -> bool {
        let mut all = self.0.type_by_kind::<Enum<'_>>();
        all.any(|found| found.iter().any(|value| value.name.is_some_and(|n| n == name)))
    }
}

/// Values as the kernel's programs compare them: 32 bits without sign, or 64.
trait Unsigned {
    fn cast_unsigned_u64(self) -> u64;
}

impl Unsigned for i64 {
    fn cast_unsigned_u64(self) -> u64 {
        u64::from(self.cast_unsigned() as u32)
    }
}

impl Unsigned for i128 {
    fn cast_unsigned_u64(self) -> u64 {
        self as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tracepoint_is_found_with_its_arguments() {
        let Some(kernel) = Vmlinux::get() else { panic!("no BTF: the tests need a kernel with it") };
        assert_eq!(kernel.arguments("inet_sock_set_state"), Some(3));
        assert_eq!(kernel.arguments("no_such_tracepoint"), None);
        assert_eq!(kernel.argument_of_enum("inet_sock_set_state", "skb_drop_reason"), None);
        if kernel.arguments("kfree_skb").is_some_and(|n| n > 2) {
            assert_eq!(kernel.argument_of_enum("kfree_skb", "skb_drop_reason"), Some(2));
        }
    }

    #[test]
    fn enumerations_have_the_names_of_this_kernel() {
        let Some(kernel) = Vmlinux::get() else { panic!("no BTF: the tests need a kernel with it") };
        let states = kernel.names("tcp_ca_state", "TCP_CA_");
        assert_eq!(states.get(&3).map(String::as_str), Some("Recovery"));
        assert!(kernel.names("no_such_enumeration", "").is_empty());
        assert!(kernel.has_member("tcp_sock", "snd_cwnd") && !kernel.has_member("tcp_sock", "nonsense"));
        assert!(kernel.has_enumerator("TCP_BPF_IW") && !kernel.has_enumerator("NO_SUCH_VALUE"));
    }
}
