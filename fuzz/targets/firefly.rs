//! Whatever is read as a firefly can be written, is read back as the same, and fits every limit that
//! it accepts.

use flowtag_wire::firefly::MAX_DATAGRAM;
use flowtag_wire::syslog::{AppName, Header, Hostname};
use flowtag_wire::{Firefly, WriteError};
use jiff::Timestamp;

pub(crate) fn run(data: &[u8]) {
    let Ok(firefly) = Firefly::from_datagram(data) else { return };
    let now = Timestamp::UNIX_EPOCH;
    let text = String::from_utf8_lossy(data);
    let header = Header::new(Hostname::sanitised(&text), AppName::sanitised(&text));
    let complete = firefly.with_required_times(now);

    let datagram = complete.to_datagram(now, &header, usize::MAX).expect("a complete firefly can be written");
    check_header(&datagram);
    // Numbers can become longer when they are written out.
    if datagram.len() <= MAX_DATAGRAM {
        let mut again = Firefly::from_datagram(&datagram).expect("what we write, we read");
        // Only the times lose something: all below the microsecond.
        again.start_time = complete.start_time;
        again.end_time = complete.end_time;
        again.current_time = complete.current_time;
        assert_eq!(again, complete);
    }
    check_limits(&complete, &header, datagram.len());
}

/// Seven fields, however wild the names are, and then the object.
fn check_header(datagram: &[u8]) {
    let parts: Vec<&[u8]> = datagram.splitn(8, |b| *b == b' ').collect();
    assert_eq!(
        (parts[0], parts[4], parts[5], parts[6]),
        (&b"<134>1"[..], &b"-"[..], &b"firefly-json"[..], &b"-"[..])
    );
    assert!(parts[7].starts_with(b"{"));
}

fn check_limits(firefly: &Firefly, header: &Header, whole: usize) {
    for max in [0, 300, 500, whole.saturating_sub(1), whole] {
        match firefly.to_datagram(Timestamp::UNIX_EPOCH, header, max) {
            Ok(datagram) => assert!(datagram.len() <= max),
            Err(WriteError::TooLong { need, .. }) => {
                assert!(need > max);
                assert!(firefly.to_datagram(Timestamp::UNIX_EPOCH, header, need).is_ok());
            }
            Err(other) => panic!("{other}"),
        }
    }
}
