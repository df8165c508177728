//! Clients: curl and wrk; of our own, one that accounts for every single request, one whose connections stay open, and
//! one that floods.

pub mod curl;
pub mod flood;
pub mod long_lived;
pub mod steady;
pub mod wrk;
