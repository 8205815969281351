//! The formats, against captures, schemas and other implementations: one binary of tests.

mod capture;
mod expression;
mod firefly;
mod labels;
mod packet;
