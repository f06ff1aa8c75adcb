//! Tests against real servers, one file per transition, then whole lives of jobs.

mod durability;
mod outage;
mod readme;
