//! Clients: curl and wrk; of our own, one that accounts for every single request, one whose connections stay open, one
//! whose connections are short, and one that floods.

pub mod curl;
pub mod flood;
pub mod long_lived;
pub mod short;
pub mod steady;
pub mod wrk;
