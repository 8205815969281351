//! The formats, against captures and other implementations: one binary of tests.

mod capture;
mod dialects;
mod expression;
mod firefly;
mod fuzz;
mod labels;
mod packet;
