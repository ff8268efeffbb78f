//! The routes as a peer sees them, without a network and with models that follow a script.

mod clients;
mod embeddings;
mod script;
mod toy;
mod writing;
