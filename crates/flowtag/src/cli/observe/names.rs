//! Names for the numbers of records.

pub(super) use crate::names::{Names, unit};
