//! Where flowtag learns of flows: one folder an input. An input turns what it hears into engine events, waits when
//! the engine is busy so that nothing is lost, and answers bad input with an error that names what, where and the fix.

pub(crate) mod access;
pub(crate) mod control;
pub(crate) mod firefly;
pub(crate) mod flowd_go;
mod gate;
pub(crate) mod pipe;
pub(crate) mod xrootd;
