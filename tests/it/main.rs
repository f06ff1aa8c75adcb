//! Tests against real servers, one file per transition, then whole lives of jobs.

mod support;

mod batch;
mod bounded;
mod cancel;
mod claim;
mod cluster;
mod complete;
mod conflict;
mod consumers;
mod crash;
mod cron;
mod dead_letter;
mod depth;
mod doctor;
mod durability;
mod edges;
mod enqueue;
mod events;
mod expiry;
mod extend;
mod groups;
mod half_applied;
mod ids;
mod library;
mod lifecycle;
mod limits;
mod look;
#[cfg(feature = "cli")]
mod metrics;
mod model;
mod operate;
mod outage;
mod panics;
mod pause;
mod persistence;
mod prefetch;
mod priority;
mod progress;
mod promote;
mod prune;
mod purge;
mod races;
mod readme;
mod reclaim;
mod recount;
mod redrive;
mod release;
mod results;
mod retry;
mod run_now;
#[cfg(feature = "encryption")]
mod seal;
#[cfg(target_os = "linux")]
mod sentinel;
mod server;
mod shutdown;
mod suspect;
mod times;
mod unique;
mod update;
mod volume;
mod wire;
