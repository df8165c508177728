//! Clients: curl and wrk, and one of our own that accounts for every single request.

pub mod curl;
pub mod steady;
pub mod wrk;
