//! Random walks: sequences of all operations, crashes, lost replies, calls that come twice or late, against a plain
//! in-memory model. After each step all that Redis holds is compared with all that the model holds, and the scanner looks
//! for whatever does not fit.
//!
//! A walk that fails is shrunk to the shortest that still fails and printed, with the seed that repeats it:
//!
//! ```text
//! MILLSTREAM_MODEL_SEED=<seed> cargo test --test it model::
//! ```
//!
//! `MILLSTREAM_MODEL_CASES` walks of up to `MILLSTREAM_MODEL_STEPS` operations are made, each from a seed of its own. A long
//! run: `MILLSTREAM_MODEL_CASES=10000 MILLSTREAM_MODEL_STEPS=60 cargo test --release --test it model::`. A printed walk can
//! be pasted into [`directed`] as a test of its own.

mod calls;
mod care;
mod compare;
mod directed;
mod happen;
mod operation;
mod pick;
mod picture;
mod reads;
mod reference;
mod run;
mod send;
mod translate;
mod turns;
mod view;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::env;

use millstream::job::state::TRANSITIONS;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use tokio::runtime::Runtime;

use crate::support::Fixture;
use operation::walk;
use run::World;

const CASES_DEFAULT: u64 = 200;
const STEPS_DEFAULT: u64 = 60;

#[test]
fn no_walk_tells_the_engine_from_the_model() {
    let cases = setting("MILLSTREAM_MODEL_CASES");
    let steps = setting("MILLSTREAM_MODEL_STEPS").unwrap_or(STEPS_DEFAULT) as usize;
    let seed = setting("MILLSTREAM_MODEL_SEED");
    // A seed that was printed is that of a single walk.
    let cases = cases.unwrap_or(if seed.is_some() { 1 } else { CASES_DEFAULT });
    let seed = seed.unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0 >> 16);

    let runtime = Runtime::new().expect("a runtime");
    let t = runtime.block_on(Fixture::new());
    let walked = RefCell::new(BTreeSet::new());
    for seed in (0..cases).map(|case| seed.wrapping_add(case)) {
        let verdict = runner(seed).run(&walk(steps), |operations| {
            let mut world = runtime.block_on(World::new(&t));
            let verdict = runtime.block_on(world.walk(&operations));
            walked.borrow_mut().append(&mut world.model.walked);
            verdict.map_err(TestCaseError::fail)
        });
        if let Err(error) = verdict {
            panic!("{}", told(seed, error));
        }
    }
    let walked = walked.into_inner();
    let arrows = TRANSITIONS.iter().enumerate();
    let missed = arrows.filter(|(arrow, _)| !walked.contains(arrow));
    let missed: Vec<_> = missed.map(|(_, arrow)| arrow).collect();
    eprintln!("{cases} walks took every arrow but {missed:?}");
}

/// One walk and its shrinking, repeatable from its seed.
fn runner(seed: u64) -> TestRunner {
    let config = Config {
        cases: 1,
        failure_persistence: None,
        max_shrink_iters: 5000,
        max_shrink_time: 120_000,
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    TestRunner::new_with_rng(config, rng)
}

fn told(seed: u64, error: TestError<Vec<operation::Operation>>) -> String {
    match error {
        TestError::Fail(reason, operations) => {
            let lines = operations
                .iter()
                .map(|operation| format!("    {operation:?},\n"));
            let walk: String = lines.collect();
            let walk = walk.replace('[', "vec![");
            format!(
                "{reason}\n\nThe shortest walk that shows it:\n[\n{walk}]\nRepeat it: MILLSTREAM_MODEL_SEED={seed} \
                 cargo test --test it model::"
            )
        }
        TestError::Abort(reason) => format!("seed {seed}: {reason}"),
    }
}

fn setting(name: &str) -> Option<u64> {
    let value = env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} = {value:?} is no number")),
    )
}
