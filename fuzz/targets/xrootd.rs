//! Whatever is read as XRootD's monitoring lies within the datagram, and there are no more records than
//! fit into it.

use flowtag_wire::xrootd::{Datagram, Message};

pub(crate) fn run(data: &[u8]) {
    let Ok(datagram) = Datagram::decode(data) else { return };
    match datagram.message {
        Message::User { user, .. } | Message::Path { user, .. } => {
            assert!(user.text.len() <= data.len() && user.text.ends_with(user.host));
            let _ = user.pid();
        }
        Message::Files(records) => {
            assert!(records.count() <= data.len() / 8 + 1);
        }
        _ => {}
    }
}
