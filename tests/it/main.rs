//! Tests against real servers, one file per transition, then whole lives of jobs.

mod support;

mod cancel;
mod claim;
mod complete;
mod dead_letter;
mod durability;
mod enqueue;
mod extend;
mod outage;
mod readme;
mod reclaim;
mod release;
mod retry;
