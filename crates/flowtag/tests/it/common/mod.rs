//! What the integration tests share. Each test binary uses a part of it.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::missing_panics_doc)]

pub mod api;
pub mod cli;
pub mod collector;
pub mod daemon;
pub mod hosts;
pub mod observe;
pub mod web;
