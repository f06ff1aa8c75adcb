//! What `top` knows, and what a key does.

use std::time::Duration;

use anyhow::Context as _;
use millstream::inspect::{JobFilter, JobView};
use millstream::{JobId, Millstream, config};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::super::{output, signals};
use super::gather::{Gatherer, Look, Trends};
use super::view;

/// How often the thread that hears keys looks whether it is still wanted.
const KEY_POLL: Duration = Duration::from_millis(100);

/// What the view waits for.
enum News {
    Key(KeyEvent),
    /// The terminal has another size.
    Resized,
    Looked(Result<Box<Look>, String>),
    Job(Result<Box<JobView>, String>),
    /// A word about what was asked for.
    Said(String),
}

/// The part of the screen that the arrows move in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Pane {
    #[default]
    Queues,
    Running,
    Failures,
}

/// What lies over the panes.
pub(super) enum Popup {
    Job(Box<JobView>),
    Question(String, Action),
}

/// What is done once it is confirmed.
#[derive(Clone, Debug)]
pub(super) enum Action {
    Pause(String),
    Resume(String),
    RedriveAll(String),
    Redrive(String, JobId),
}

pub(super) struct App {
    client: Millstream,
    pub(super) server: String,
    pub(super) look: Look,
    pub(super) trends: Trends,
    pub(super) pane: Pane,
    /// The queue that is selected; it keeps its place when others come and go.
    pub(super) queue: Option<String>,
    /// The rows that are selected in the panes of jobs.
    pub(super) rows: [usize; 2],
    pub(super) popup: Option<Popup>,
    pub(super) said: String,
    /// Why the last look failed.
    pub(super) away: Option<String>,
    news: UnboundedSender<News>,
    over: bool,
}

/// Shows it until somebody leaves. Whatever happens, the terminal is given back as it was.
pub(super) async fn run(
    client: Millstream,
    only: Option<String>,
    interval: Duration,
) -> anyhow::Result<()> {
    let stop = signals::shutdown(false)?;
    // Gives the terminal back on a panic, too.
    let mut terminal = ratatui::try_init().context("cannot take over the terminal")?;
    let (send, mut news) = unbounded_channel();
    hear_keys(send.clone());
    let mut app = App {
        server: client.server().to_owned(),
        client: client.clone(),
        look: Look::default(),
        trends: Trends::default(),
        pane: Pane::default(),
        queue: only.clone(),
        rows: [0; 2],
        popup: None,
        said: String::new(),
        away: None,
        news: send.clone(),
        over: false,
    };
    let (ask, asked) = tokio::sync::watch::channel(app.queue.clone());
    let looks = tokio::spawn(look_on(Gatherer::new(client, only), asked, send, interval));
    let shown = tokio::select! {
        shown = app.show(&mut terminal, &mut news, &ask) => shown,
        () = stop.cancelled() => Ok(()),
    };
    looks.abort();
    ratatui::restore();
    shown
}

/// Looks again and again, and at once when another queue is selected.
async fn look_on(
    mut gatherer: Gatherer,
    mut selected: tokio::sync::watch::Receiver<Option<String>>,
    news: UnboundedSender<News>,
    interval: Duration,
) {
    loop {
        let queue = selected.borrow_and_update().clone();
        let look = gatherer.look(queue.as_deref()).await;
        let look = look.map(Box::new).map_err(|error| error.to_string());
        if news.send(News::Looked(look)).is_err() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            changed = selected.changed() => if changed.is_err() { return },
        }
    }
}

/// Keys come from a thread: the terminal cannot be waited for in any other way.
fn hear_keys(news: UnboundedSender<News>) {
    std::thread::spawn(move || {
        while !news.is_closed() {
            match event::poll(KEY_POLL) {
                Ok(false) => continue,
                Ok(true) => {}
                Err(_) => return,
            }
            let heard = match event::read() {
                Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => News::Key(key),
                Ok(Event::Resize(..)) => News::Resized,
                Ok(_) => continue,
                Err(_) => return,
            };
            if news.send(heard).is_err() {
                return;
            }
        }
    });
}

impl App {
    async fn show(
        &mut self,
        terminal: &mut DefaultTerminal,
        news: &mut UnboundedReceiver<News>,
        ask: &tokio::sync::watch::Sender<Option<String>>,
    ) -> anyhow::Result<()> {
        while !self.over {
            terminal
                .draw(|frame| view::draw(frame, self))
                .context("cannot draw")?;
            let Some(one) = news.recv().await else { break };
            self.hear(one);
            // Several at once are drawn once.
            while let Ok(one) = news.try_recv() {
                self.hear(one);
            }
            ask.send_if_modified(|asked| {
                let changed = *asked != self.queue;
                asked.clone_from(&self.queue);
                changed
            });
        }
        Ok(())
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Key(key) => self.press(key),
            News::Resized => {}
            News::Looked(Ok(look)) => {
                self.trends.take(&look);
                self.look = *look;
                self.away = None;
                let known =
                    |name: &String| self.look.queues.iter().any(|stats| stats.queue == *name);
                if !self.queue.as_ref().is_some_and(known) {
                    self.queue = self.look.queues.first().map(|stats| stats.queue.clone());
                }
            }
            News::Looked(Err(error)) => self.away = Some(error),
            News::Job(Ok(job)) => self.popup = Some(Popup::Job(job)),
            News::Job(Err(error)) | News::Said(error) => self.said = error,
        }
    }

    fn press(&mut self, key: KeyEvent) {
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            self.over = true;
            return;
        }
        match (self.popup.take(), key.code) {
            (Some(Popup::Question(_, action)), KeyCode::Char('y' | 'Y')) => self.act(action),
            (Some(Popup::Question(..)), _) => {
                self.said = "not confirmed: nothing was changed".into()
            }
            // Any key closes a job; `r` redrives it.
            (Some(Popup::Job(job)), KeyCode::Char('r')) => self.ask_to_redrive_one(&job.id),
            (Some(Popup::Job(_)), _) => {}
            (None, code) => self.press_in_pane(code),
        }
    }

    fn press_in_pane(&mut self, code: KeyCode) {
        self.said.clear();
        match code {
            KeyCode::Char('q') | KeyCode::Esc => self.over = true,
            KeyCode::Down | KeyCode::Char('j') => self.move_by(1),
            KeyCode::Up | KeyCode::Char('k') => self.move_by(-1),
            KeyCode::Tab => {
                self.pane = match self.pane {
                    Pane::Queues => Pane::Running,
                    Pane::Running => Pane::Failures,
                    Pane::Failures => Pane::Queues,
                }
            }
            KeyCode::Enter => match (self.pane, self.selected_job()) {
                (Pane::Queues, _) => self.pane = Pane::Running,
                (_, Some(id)) => self.look_into(id),
                (_, None) => self.said = "no job is selected".into(),
            },
            KeyCode::Char('p') => self.ask_to_pause(),
            KeyCode::Char('r') => match (self.pane, self.selected_job()) {
                (Pane::Failures, Some(id)) => self.ask_to_redrive_one(&id),
                _ => self.ask_to_redrive_all(),
            },
            _ => {}
        }
    }

    fn move_by(&mut self, by: isize) {
        let step = |from: usize, length: usize| {
            from.saturating_add_signed(by).min(length.saturating_sub(1))
        };
        match self.pane {
            Pane::Queues => {
                let queues = &self.look.queues;
                let now = self.selected_queue().unwrap_or(0);
                let then = queues.get(step(now, queues.len()));
                self.queue = then.map(|stats| stats.queue.clone());
                self.rows = [0; 2];
            }
            Pane::Running => self.rows[0] = step(self.rows[0], self.look.detail.running.len()),
            Pane::Failures => self.rows[1] = step(self.rows[1], self.look.detail.failures.len()),
        }
    }

    /// The selected queue's place in the list.
    pub(super) fn selected_queue(&self) -> Option<usize> {
        let queues = &self.look.queues;
        queues
            .iter()
            .position(|stats| Some(&stats.queue) == self.queue.as_ref())
    }

    fn selected_job(&self) -> Option<JobId> {
        let detail = &self.look.detail;
        match self.pane {
            Pane::Queues => None,
            Pane::Running => Some(detail.running.get(self.rows[0])?.id.clone()),
            Pane::Failures => detail.failures.get(self.rows[1])?.job.clone(),
        }
    }

    fn look_into(&mut self, id: JobId) {
        let (client, news) = (self.client.clone(), self.news.clone());
        let queue = self.look.detail.queue.clone();
        tokio::spawn(async move {
            let job = async { client.inspect(&queue)?.show(&id).await };
            let job = job.await.map(Box::new).map_err(|error| error.to_string());
            let _ = news.send(News::Job(job));
        });
    }

    fn ask(&mut self, question: String, action: Action) {
        self.popup = Some(Popup::Question(question, action));
    }

    fn ask_to_pause(&mut self) {
        let Some(stats) = self
            .selected_queue()
            .and_then(|at| self.look.queues.get(at))
        else {
            return;
        };
        let queue = stats.queue.clone();
        match stats.paused {
            true => self.ask(format!("Resume {queue}?"), Action::Resume(queue)),
            false => self.ask(
                format!("Pause {queue}? Running jobs run on."),
                Action::Pause(queue),
            ),
        }
    }

    fn ask_to_redrive_all(&mut self) {
        let Some(stats) = self
            .selected_queue()
            .and_then(|at| self.look.queues.get(at))
        else {
            return;
        };
        if stats.dead == 0 {
            self.said = format!("{} has no dead jobs", stats.queue);
            return;
        }
        let jobs = output::counted(stats.dead, "dead job");
        let queue = stats.queue.clone();
        self.ask(
            format!("Redrive {jobs} of {queue}?"),
            Action::RedriveAll(queue),
        );
    }

    fn ask_to_redrive_one(&mut self, id: &JobId) {
        let queue = self.look.detail.queue.clone();
        self.ask(
            format!("Redrive job {id} of {queue}?"),
            Action::Redrive(queue, id.clone()),
        );
    }

    fn act(&mut self, action: Action) {
        let (client, news) = (self.client.clone(), self.news.clone());
        self.said = "on it …".into();
        tokio::spawn(async move {
            let said = done(&client, &action, &news).await;
            let _ = news.send(News::Said(said.unwrap_or_else(|error| error.to_string())));
        });
    }
}

/// Does it, and says what was done.
async fn done(
    client: &Millstream,
    action: &Action,
    news: &UnboundedSender<News>,
) -> millstream::Result<String> {
    match action {
        Action::Pause(queue) => {
            client.inspect(queue)?.pause().await?;
            Ok(format!("{queue} is paused"))
        }
        Action::Resume(queue) => {
            client.inspect(queue)?.resume().await?;
            Ok(format!("{queue} is open"))
        }
        Action::Redrive(queue, id) => {
            let ids = std::slice::from_ref(id);
            Ok(match client.inspect(queue)?.redrive(ids).await? {
                0 => format!("job {id} is not dead"),
                _ => format!("job {id} is ready"),
            })
        }
        Action::RedriveAll(queue) => {
            let inspector = client.inspect(queue)?;
            let mut walk = inspector.walk_dead(&JobFilter::new()).await?;
            let mut redriven = 0;
            while let Some(step) = walk.next(config::OPERATOR_BATCH).await? {
                redriven += inspector.redrive(&step.ids).await?;
                let so_far = output::count(redriven);
                let _ = news.send(News::Said(format!("redriving {queue}: {so_far} …")));
            }
            let jobs = output::counted(redriven, "job");
            Ok(format!("redriven {jobs} of {queue}"))
        }
    }
}
