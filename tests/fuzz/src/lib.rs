//! What the fuzz targets share: a count of what they allocate, and files that a short input describes.

pub mod image;
pub mod memory;
pub mod net;
pub mod seeds;
#[allow(dead_code)] // As in `net`.
#[path = "../../../broker/src/shortage.rs"]
mod shortage;
