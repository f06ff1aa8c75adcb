//! Tests of the binary: commands as people script them, and worker processes that are stopped and killed.

mod bad_input;
mod bench;
mod book;
mod bulk;
mod canaries;
mod commands;
mod cron;
mod demo;
mod doctor;
mod frozen;
mod limits;
mod look;
mod metrics;
mod pages;
mod poison;
mod process;
mod reload;
mod seal;
mod support;
mod terminal;
mod tls;
mod traces;
mod wait;
mod webhooks_doc;
