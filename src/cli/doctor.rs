//! `millstream doctor`: what is wrong with Redis and the queues, what it means, and what to do.

use std::time::Duration;

use anstyle::{AnsiColor, Style};
use clap::Args;
use millstream::QueueName;
use millstream::inspect::{Diagnosis, Finding, Level};

use super::args::Globals;
use super::connect::connect;
use super::consent::Consent;
use super::{output, parse};

/// Look for what is wrong with Redis and the queues, and say what it means and what to do. Exit code 0: nothing but notes; 1: findings
/// are left. Works in short steps, also on a queue of a million jobs while workers run.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// The queue [default: every queue there is]
    #[arg(value_parser = parse::queue)]
    queue: Option<QueueName>,
    /// Mend what is safe to mend; each thing is looked at again in the step that mends it
    #[arg(long)]
    repair: bool,
    /// Do not ask before repairing. Nobody is asked either when stdin is no terminal
    #[arg(long, short, requires = "repair")]
    yes: bool,
    /// A worker counts as gone after this silence; more than the longest lease
    #[arg(long, value_parser = parse::window, value_name = "DURATION", default_value = "10m")]
    silent_after: Duration,
    /// Write JSON: clean, queues, findings (code, level, queue, count, repaired, what, means, todo, repairable, examples)
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        if self.repair {
            let whose = match &self.queue {
                Some(queue) => queue.to_string(),
                None => "every queue".to_owned(),
            };
            Consent { yes: self.yes }.to(&format!("Repair {whose}?"))?;
        }
        // A server that is not fit for jobs is what is looked for.
        let globals = Globals {
            allow_eviction: true,
            ..globals.clone()
        };
        let client = connect(&globals).await?;
        let mut doctor = client
            .doctor()
            .repair(self.repair)
            .silent_after(self.silent_after);
        if let Some(queue) = &self.queue {
            doctor = doctor.queues([queue.to_string()]);
        }
        let spinner = output::spinner("looking");
        let told = doctor.run(|queue, looked| {
            spinner.set_message(format!("{queue}: looked at {}", output::count(looked)));
        });
        let diagnosis = told.await;
        spinner.finish_and_clear();
        let diagnosis = diagnosis?;
        if self.json {
            let mut object = serde_json::to_value(&diagnosis)?;
            object["clean"] = diagnosis.is_clean().into();
            output::json(&object)?;
        } else {
            self.print(client.server(), &diagnosis)?;
        }
        let open = diagnosis
            .findings
            .iter()
            .filter(|one| one.is_open())
            .count() as u64;
        anyhow::ensure!(
            open == 0,
            "{}: {}",
            output::counted(open, "finding"),
            match self.repair {
                true => "what is left needs you",
                false => "see above for what to do",
            }
        );
        Ok(())
    }

    fn print(&self, server: &str, diagnosis: &Diagnosis) -> anyhow::Result<()> {
        output::line(format!(
            "{server}, {}",
            output::counted(diagnosis.queues.len() as u64, "queue")
        ))?;
        let mut findings: Vec<&Finding> = diagnosis.findings.iter().collect();
        // The worst last: it is what stays on the screen.
        findings.sort_by_key(|finding| finding.level);
        for finding in findings {
            print_one(finding)?;
        }
        output::line(match (diagnosis.is_clean(), self.repair) {
            (true, false) => "\nhealthy",
            (true, true) => "\nhealthy now",
            (false, _) => "",
        })
    }
}

fn print_one(finding: &Finding) -> anyhow::Result<()> {
    let (word, style) = match finding.level {
        Level::Fault => ("fault", AnsiColor::Red.on_default().bold()),
        Level::Risk => ("risk", AnsiColor::Yellow.on_default().bold()),
        _ => ("note", Style::new()),
    };
    let whose = finding.queue.as_deref().unwrap_or("redis");
    output::line(format!(
        "\n{style}{word:<5}{style:#}  {whose}  {}  {}",
        finding.code,
        output::clean(&finding.what)
    ))?;
    output::line(format!("       means: {}", finding.means))?;
    if finding.repaired > 0 {
        output::line(format!(
            "       mended: {} of {}",
            output::count(finding.repaired),
            output::count(finding.count)
        ))?;
    }
    if finding.repaired < finding.count {
        output::line(format!("       do: {}", finding.todo))?;
    }
    if !finding.examples.is_empty() {
        let examples = output::clean(&finding.examples.join(", ")).into_owned();
        output::line(format!("       such as: {examples}"))?;
    }
    Ok(())
}
