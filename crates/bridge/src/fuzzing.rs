//! For the fuzz targets alone.

pub use crate::websocket::{FrameFault, FrameReader, Unframed, data_header};
