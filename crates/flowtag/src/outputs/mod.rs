//! Where flowtag tells others: one folder an output. An output takes from a bounded queue, counts what it loses, and
//! never holds the engine back.

pub(crate) mod firefly;
