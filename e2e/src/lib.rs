//! What the end-to-end tests are made of: the programs they use, a registry with images of their own, and the scenarios.

pub mod images;
pub mod oci;
pub mod process;
pub mod registry;
pub mod tools;
