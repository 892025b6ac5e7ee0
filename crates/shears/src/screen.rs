//! `shears train --tui`: draws a run on the full terminal while it trains.
//!
//! The training thread only sends events; another thread keeps them, draws, and reads keys.

mod charts;
mod panel;
mod state;
mod terminal;
mod view;

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use ratatui::crossterm::event::{self, Event as Input, KeyCode, KeyEventKind, KeyModifiers};
use shears_run::{Event, Header, RunError};
use shears_train::End;

use crate::exit::no_thread;
use crate::output::is_passed_on;
use crate::watch::{Listener, ask_to_stop};
pub(crate) use state::Setup;
use state::State;
use terminal::Drawing;
pub(crate) use terminal::leave;
use view::View;

/// Minimum time between two frames, and between two looks at the keyboard.
const PERIOD: Duration = Duration::from_millis(200);

/// A frame of a long run takes longer, and is followed by a pause of this many times its own time:
/// drawing takes a hundredth of one core from training.
const PAUSE: u32 = 100;

/// How long to wait for the drawing thread at the end.
const PATIENCE: Duration = Duration::from_secs(2);

/// Maximum time between two frames, so that the remaining time counts down even without events.
const LONGEST: Duration = Duration::from_secs(1);

/// Whether there is a terminal to draw on.
pub(crate) fn is_possible() -> bool {
    std::io::stdout().is_terminal() && !is_passed_on()
}

/// The screen of a run, until it ends or is dropped.
pub(crate) struct Screen {
    events: Option<Sender<Event>>,
    thread: Option<JoinHandle<()>>,
}

impl Screen {
    /// Takes the terminal, and begins with the history of the run. Sets `stop` when a key asks for
    /// it.
    pub(crate) fn open(
        setup: Setup,
        header: Header,
        history: impl Iterator<Item = Result<Event, RunError>>,
        stop: Arc<AtomicBool>,
    ) -> anyhow::Result<Screen> {
        let mut state = State::new(setup.subject.clone(), header);
        for event in history {
            state.take(event?);
        }
        state.start();
        let drawing = Drawing::enter().context("cannot draw on this terminal")?;
        let (sender, receiver) = channel();
        let painter = Painter {
            drawing,
            view: View::new(setup, Instant::now(), stop),
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
            thread: Some(thread.map_err(no_thread)?),
        })
    }

    fn close(&mut self) {
        // The thread ends when its channel closes, unless the terminal blocks it.
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
            // If the drawing thread has ended, the run continues without a screen.
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

/// Whether a key is pressed within a period; none if the terminal is gone. This polls, because
/// crossterm's own wait spins forever when the terminal goes away.
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

/// The state of the drawing thread.
struct Painter {
    drawing: Drawing,
    view: View,
    state: State,
    receiver: Receiver<Event>,
}

impl Painter {
    /// Draws until the run ends or the terminal is gone.
    fn paint(mut self) {
        let mut picture = self.state.picture();
        let (mut changed, mut pressed) = (true, true);
        let (mut drawn, mut pause) = (Instant::now(), Duration::ZERO);
        loop {
            loop {
                match self.receiver.try_recv() {
                    Ok(event) => {
                        self.state.take(event);
                        changed = true;
                    }
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            self.state.judge();
            let rested = drawn.elapsed();
            if pressed || rested >= pause && (changed || rested >= LONGEST) {
                let begun = Instant::now();
                // While the display is paused, the state still advances.
                if changed && !self.view.paused {
                    picture = self.state.picture();
                    changed = false;
                }
                let view = &self.view;
                if self
                    .drawing
                    .draw(|frame| view.draw(frame, &picture))
                    .is_err()
                {
                    return;
                }
                pressed = false;
                drawn = Instant::now();
                // A terminal that was blocked for a while must not stay still for long.
                pause = (begun.elapsed() * PAUSE).min(5 * LONGEST);
            }
            match is_key_pressed() {
                Some(true) => {
                    self.read_key();
                    pressed = true;
                }
                Some(false) => {}
                None => return,
            }
        }
    }

    fn read_key(&mut self) {
        let Ok(Input::Key(key)) = event::read() else {
            // A resized window is redrawn anyway.
            return;
        };
        if key.kind != KeyEventKind::Press {
            return;
        }
        match key.code {
            KeyCode::Char('q') => self.stop(),
            // In raw mode, Ctrl-C arrives as a key, not as a signal.
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => self.stop(),
            KeyCode::Char('l') => self.view.scale = self.view.scale.next(),
            KeyCode::Char('p' | ' ') => self.view.paused = !self.view.paused,
            _ => {}
        }
    }

    /// Like Ctrl-C: the first time saves and stops, the second exits at once.
    fn stop(&self) {
        ask_to_stop(&self.view.stop, || {});
    }
}
