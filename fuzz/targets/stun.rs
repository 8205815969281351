//! An answer counts only with the id of the question, and says the same whatever else is asked.

use flowtag_wire::stun::{self, Answer};

pub(crate) fn run(data: &[u8]) {
    let Some(id) = data.get(8..20).and_then(|id| id.try_into().ok()) else { return };
    let answer = stun::answer(data, id);
    if let Some(Ok(Answer::Refused { code, .. })) = &answer {
        assert!(*code == 0 || (300..=699).contains(code), "{code}");
    }
    let mut other = id;
    other[11] ^= 1;
    assert_eq!(stun::answer(data, other), None);
    assert_eq!(stun::answer(&stun::question(id), id), None, "a question is no answer");
}
