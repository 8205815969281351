//! The engine's stories and its simulation against a model: one binary of tests.

mod registry;
mod simulation;
mod stories;
