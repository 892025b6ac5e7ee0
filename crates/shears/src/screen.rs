//! `shears train --tui`: a run drawn on the whole terminal while it goes.
//!
//! The thread that trains only sends what happened; another one keeps it, draws and reads keys.

mod charts;
mod panel;
mod series;
mod state;
mod terminal;
mod view;

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use ratatui::crossterm::event::{self, Event as Input, KeyCode, KeyEventKind, KeyModifiers};
use shears_run::{Event, RunError};
use shears_train::End;

use crate::exit::{INTERRUPTED, Misuse};
use crate::output::is_passed_on;
use crate::watch::Listener;
pub(crate) use state::Setup;
use state::State;
use terminal::Drawing;
pub(crate) use terminal::leave;
use view::View;

/// Time between two pictures: one takes a millisecond of a core that training could have.
const PERIOD: Duration = Duration::from_millis(200);

/// How long the thread that draws has to end.
const PATIENCE: Duration = Duration::from_secs(2);

/// While nothing happens, the time that is left still goes on.
const LONGEST: Duration = Duration::from_secs(1);

/// Refuses what a screen does not go with.
pub(crate) fn check(json: bool, quiet: bool) -> Result<(), Misuse> {
    let refuse = |problem: &str| Err(Misuse(problem.to_string()));
    match (json, quiet) {
        (true, _) => refuse("--tui and --json exclude each other"),
        (_, true) => refuse("--tui and --quiet exclude each other"),
        _ if !std::io::stdout().is_terminal() || is_passed_on() => {
            refuse("--tui draws on a terminal, and standard output is not one; leave it out")
        }
        _ => Ok(()),
    }
}

/// The screen of a run, until it ends or is dropped.
pub(crate) struct Screen {
    events: Option<Sender<Event>>,
    thread: Option<JoinHandle<()>>,
}

impl Screen {
    /// Takes the terminal, and begins with what the run has done before. Sets `stop` when a key
    /// asks for it.
    pub(crate) fn open(
        setup: Setup,
        history: impl Iterator<Item = Result<Event, RunError>>,
        stop: Arc<AtomicBool>,
    ) -> anyhow::Result<Screen> {
        let mut state = State::new(setup);
        for event in history {
            state.take(&event?);
        }
        state.start();
        let drawing = Drawing::enter().context("cannot draw on this terminal")?;
        let (sender, receiver) = channel();
        let painter = Painter {
            drawing,
            view: View::new(Instant::now(), stop),
            state,
            receiver,
        };
        let thread = std::thread::Builder::new().name("screen".into());
        let thread = thread.spawn(move || painter.paint());
        if thread.is_err() {
            leave();
        }
        Ok(Screen {
            events: Some(sender),
            thread: Some(thread.context("cannot start the thread that draws")?),
        })
    }

    fn close(&mut self) {
        // The thread ends when nobody can send to it any more, if the terminal lets it.
        self.events = None;
        if let Some(thread) = self.thread.take() {
            let since = Instant::now();
            while !thread.is_finished() && since.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        leave();
    }
}

impl Listener for Screen {
    fn event(&mut self, event: &Event) {
        if let Some(events) = &self.events {
            // Without a screen, because its thread has ended, the run goes on all the same.
            let _ = events.send(event.clone());
        }
    }

    fn end(&mut self, _end: Option<End>) {
        self.close();
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.close();
    }
}

/// Whether a key is pressed within a period; none if the terminal is gone. It is waited for here:
/// who waits within crossterm when a terminal goes reads its end for ever.
fn is_key_pressed() -> Option<bool> {
    let since = Instant::now();
    while since.elapsed() < PERIOD {
        if !std::io::stdout().is_terminal() {
            return None;
        }
        if event::poll(Duration::ZERO).unwrap_or(false) {
            return Some(true);
        }
        std::thread::sleep(PERIOD / 8);
    }
    Some(false)
}

/// What the drawing thread has.
struct Painter {
    drawing: Drawing,
    view: View,
    state: State,
    receiver: Receiver<Event>,
}

impl Painter {
    /// Draws until the run ends or the terminal is gone.
    fn paint(mut self) {
        // While the display pauses, the state goes on unseen.
        let mut frozen: Option<State> = None;
        let (mut changed, mut drawn) = (true, Instant::now());
        loop {
            loop {
                match self.receiver.try_recv() {
                    Ok(event) => {
                        self.state.take(&event);
                        changed = true;
                    }
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            self.state.judge();
            let shown = frozen.as_ref().unwrap_or(&self.state);
            let view = &self.view;
            if changed || drawn.elapsed() >= LONGEST {
                if self.drawing.draw(|frame| view.draw(frame, shown)).is_err() {
                    return;
                }
                (changed, drawn) = (false, Instant::now());
            }
            match is_key_pressed() {
                Some(true) => {
                    self.read_key();
                    changed = true;
                }
                Some(false) => {}
                None => return,
            }
            if !self.view.paused {
                frozen = None;
            } else if frozen.is_none() {
                frozen = Some(self.state.clone());
            }
        }
    }

    fn read_key(&mut self) {
        let Ok(Input::Key(key)) = event::read() else {
            // A window of another size is drawn anew anyway.
            return;
        };
        if key.kind != KeyEventKind::Press {
            return;
        }
        match key.code {
            KeyCode::Char('q') => self.stop(),
            // The terminal hands Ctrl-C over as a key, not as a signal.
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => self.stop(),
            KeyCode::Char('l') => self.view.scale = self.view.scale.next(),
            KeyCode::Char('p' | ' ') => self.view.paused = !self.view.paused,
            _ => {}
        }
    }

    /// As Ctrl-C does: once is to save and stop, twice is to leave at once.
    fn stop(&self) {
        if self.view.stop.swap(true, Ordering::SeqCst) {
            leave();
            std::process::exit(i32::from(INTERRUPTED));
        }
    }
}
