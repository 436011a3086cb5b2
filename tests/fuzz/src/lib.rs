//! Shared by the fuzz targets: a count of allocated bytes, and files that a short input describes.

#[allow(dead_code)] // As in `net`.
#[path = "../../../broker/src/clock.rs"]
mod clock;
pub mod image;
pub mod memory;
#[allow(dead_code)] // As in `net`.
#[path = "../../../broker/src/memory_pressure.rs"]
mod memory_pressure;
pub mod net;
pub mod seeds;
