//! What is refused when it is written, on a real API server: by the control plane with the rights that an installation gives it, and by the
//! policies of an installation.

mod bed;
mod labels;
mod objects;
mod roots;
