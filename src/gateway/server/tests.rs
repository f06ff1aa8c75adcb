//! The HTTP side over real sockets, with a stand-in for what stores.

mod answers;
mod bodies;
mod connections;
mod fixture;
mod plain;
