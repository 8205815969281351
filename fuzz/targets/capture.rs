//! A capture file gives packets in order and ends; cutting it changes no packet before the cut.

use flowtag_wire::capture::{Capture, MAX_FRAME};
use flowtag_wire::{LinkType, Packet};

type Rows = Vec<(u64, Option<jiff::Timestamp>, u32, u32, Vec<u8>)>;

pub(crate) fn run(data: &[u8]) {
    let rows = read(data);
    let kept: usize = rows.iter().map(|r| r.4.len()).sum();
    assert!(kept <= data.len(), "no byte is given out twice");
    let cut = read(&data[..data.len() / 2]);
    assert_eq!(rows[..cut.len()], cut);
}

fn read(data: &[u8]) -> Rows {
    let mut rows = Rows::new();
    let Ok(mut capture) = Capture::new(data) else { return rows };
    while let Ok(Some(record)) = capture.next_record() {
        assert_eq!(record.number, rows.len() as u64 + 1);
        assert!(record.bytes.len() <= MAX_FRAME as usize);
        assert!(record.original_len as usize >= record.bytes.len());
        if let Ok(link) = LinkType::from_number(record.link_type) {
            let _ = Packet::parse(link, record.bytes).map(|p| p.checksum_ok());
        }
        rows.push((
            record.number,
            record.timestamp,
            record.link_type,
            record.original_len,
            record.bytes.to_vec(),
        ));
    }
    assert!(capture.next_record().is_ok_and(|r| r.is_none()), "once ended, always ended");
    rows
}
