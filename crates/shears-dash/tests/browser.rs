//! A browser opens the page while a run trains, without an error in its console.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use shears_dash::serve;

use crate::chromium::Chromium;
use crate::run_folder::{Run, Runs, end_line, log_of, ranks_line, resume_lines, step_line};

/// Serves the folder on a free port until the tests end.
fn served(runs: &Runs) -> String {
    let (sender, receiver) = mpsc::channel();
    let options = runs.options();
    thread::spawn(move || {
        serve(options, |address| {
            sender.send(address.to_string()).unwrap();
            ControlFlow::Continue(())
        })
    });
    receiver.recv_timeout(Duration::from_secs(20)).unwrap()
}

/// Appends steps like a trainer, until `stop` is set.
fn train(run: Run, from: u64, stop: Arc<AtomicBool>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let _lock = run.lock();
        let mut step = from;
        while !stop.load(Ordering::Relaxed) {
            run.append(&step_line(
                step,
                if step.is_multiple_of(40) { 5.0 } else { 0.5 },
            ));
            step += 1;
            thread::sleep(Duration::from_millis(20));
        }
        run.append(&end_line(step - 1, "stopped"));
    })
}

/// Uses the page at `address`, where the run `growing` trains and `other` has ended; `end_training`
/// ends the first.
fn use_the_page(
    browser: &mut Chromium,
    address: &str,
    growing: &str,
    other: &str,
    end_training: impl FnOnce(),
) {
    let main = "document.getElementById('page').dataset";
    browser.open(address);
    browser.until("document.querySelectorAll('tr[data-run]').length >= 2");
    browser.see_state(growing, "running");

    browser.see_a_point_arrive(growing);
    browser.until("document.querySelector('.heat canvas').height > 10");
    browser.until("document.querySelector('.verdict .lead').textContent.length > 10");

    browser.switch_to_log_scale();
    for unit in ["bits per character", "perplexity", "nats per token"] {
        browser.press("u");
        browser.until(&format!(
            "document.querySelector('[data-chart=loss] .unit').textContent === '{unit}'"
        ));
    }
    zoom(browser);
    browser.press("?");
    browser.until("document.getElementById('help').open");
    browser.value("document.getElementById('help').close()");
    browser.press("t");
    browser.until("document.documentElement.dataset.theme === 'light'");

    // Where a run was resumed, and with which changes: in words, and marked on its charts.
    browser.value(&format!("location.hash = '#/run/{other}'"));
    browser.until("document.querySelector('.resumes .change')?.textContent === 'lr 0.002 → 0.001'");
    browser.until("document.querySelector('.resumes li')?.textContent.includes('step-00000200')");
    for chart in ["norm", "loss", "lr"] {
        let legend = format!("document.querySelector('[data-chart={chart}] .marks').textContent");
        browser.until(&format!("{legend}.includes('resumed with other settings')"));
    }

    let processes = "document.querySelector('.processes:not([hidden]) summary')?.textContent";
    browser.until(&format!(
        "{processes} === 'Processes: 2 ranks on 2 machines (a, b), 1 thread each'"
    ));

    // A spike leads to its step.
    browser.until("document.querySelector('.spikes a') !== null");
    browser.value("document.querySelector('.spikes a').click()");
    browser.until(&format!("{main}.step === '17'"));
    browser.until("document.querySelectorAll('.tensors tbody tr').length === 3");
    browser.until("document.querySelector('.batch .how').textContent === 'The text is gone.'");

    // A malformed address gives a message instead of empty axes.
    browser.value("location.hash = '#/run/%'");
    browser.until("document.querySelector('.empty h2')?.textContent.includes('malformed')");

    browser.compare(growing, other);
    browser.until("document.querySelector('.verdict .lead').textContent.includes('equal until')");
    browser.press("u");
    browser.until(
        "document.querySelector('[data-chart=val] .unit').textContent === 'bits per character'",
    );

    end_training();
    browser.value("location.hash = '#/'");
    browser.see_state(growing, "stopped");
    assert!(browser.errors.is_empty(), "{:#?}", browser.errors);
}

/// Zooms into the norm by dragging, zooms out, hovers over a step and clicks it.
fn zoom(browser: &mut Chromium) {
    browser.value("window.scrollTo(0, 0)");
    let [left, width, top] = ["left", "width", "top"].map(|side| {
        let place = "document.querySelector('[data-chart=norm] .u-over').getBoundingClientRect()";
        browser.value(&format!("{place}.{side}")).as_f64().unwrap()
    });
    let range = "document.querySelector('.range').textContent";
    browser.until(&format!("{range}.startsWith('All')"));
    browser.drag(
        (left + 0.2 * width, top + 40.0),
        (left + 0.6 * width, top + 60.0),
    );
    browser.until(&format!("{range}.startsWith('Steps')"));
    browser.press("0");
    browser.until(&format!("{range}.startsWith('All')"));

    // One crosshair for all charts.
    browser.hover((left + 0.5 * width, top + 50.0));
    for chart in ["norm", "loss", "speed", "norms"] {
        let readout = format!("document.querySelector('[data-chart={chart}] .readout .at')");
        browser.until(&format!("{readout}?.textContent.startsWith('step')"));
    }
    let at = (left + 0.3 * width, top + 50.0);
    browser.drag(at, at);
    browser.until("location.hash.includes('/step/')");
    browser.until("document.querySelectorAll('.facts div').length > 6");
    browser.value("history.back()");
    browser.until("document.querySelector('[data-chart=loss] .uplot') !== null");
}

#[test]
fn a_browser_watches_a_run() {
    let Some(mut browser) = Chromium::start() else {
        return;
    };
    let runs = Runs::new();
    let growing = runs.run("growing", &log_of(60));
    let other = ranks_line(0)
        + &log_of(200)
        + &resume_lines(200)
        + &step_line(201, 0.5)
        + &end_line(201, "finished");
    runs.run("other", &other);
    let stop = Arc::new(AtomicBool::new(false));
    let trainer = train(growing, 61, stop.clone());
    let address = served(&runs);
    use_the_page(&mut browser, &address, "growing", "other", || {
        stop.store(true, Ordering::Relaxed);
        trainer.join().unwrap();
    });
}

/// Without a run, the page says how to start one.
#[test]
fn a_browser_sees_an_empty_folder() {
    let Some(mut browser) = Chromium::start() else {
        return;
    };
    let runs = Runs::new();
    let address = served(&runs);
    browser.open(&address);
    browser.until("document.querySelector('.empty pre')?.textContent.includes('shears train')");
    runs.run("first", &log_of(5));
    browser.until("document.querySelectorAll('tr[data-run]').length === 1");
    assert!(browser.errors.is_empty(), "{:#?}", browser.errors);
}

/// On a phone, labels stay beside their buttons; and a comparison says which run died where.
#[test]
fn a_narrow_page_keeps_labels_beside_their_buttons() {
    let Some(mut browser) = Chromium::start() else {
        return;
    };
    let runs = Runs::new();
    runs.run("dead", &(log_of(20) + &end_line(20, "diverged")));
    runs.run("alive", &(log_of(60) + &end_line(60, "finished")));
    let address = served(&runs);
    browser.open(&address);
    let phone =
        serde_json::json!({ "width": 390, "height": 900, "deviceScaleFactor": 1, "mobile": false });
    browser.call("Emulation.setDeviceMetricsOverride", phone);
    browser.value("location.hash = '#/run/alive'");
    browser.until("document.querySelector('.next .command code')?.textContent.length > 40");
    let beside = "[...document.querySelectorAll('.tool')].map((tool) => {
        const [word, buttons] = [...tool.children].map((one) => one.getBoundingClientRect());
        const apart = word.top + word.bottom - buttons.top - buttons.bottom;
        return word.right <= buttons.left && Math.abs(apart) < 8;
    }).join()";
    assert_eq!(browser.value(beside), "true,true,true");
    let whole = "(() => {
        const code = document.querySelector('.next .command code');
        const page = document.documentElement;
        return code.scrollWidth <= code.clientWidth && page.scrollWidth <= innerWidth;
    })()";
    assert_eq!(browser.value(whole), true);
    browser.value("location.hash = '#/compare/dead/alive'");
    browser.until(
        "document.querySelector('.verdict .lead')?.textContent.includes('Run dead: not finite from \
         step 21.')",
    );
    assert!(browser.errors.is_empty(), "{:#?}", browser.errors);
}

/// The page of a step shows the policy that clipped it, which the run may have changed later, and
/// rounds no share up to all of it.
#[test]
fn a_browser_sees_the_policy_of_each_step() {
    let Some(mut browser) = Chromium::start() else {
        return;
    };
    let runs = Runs::new();
    let change = "{\"event\":\"change\",\"step\":4,\"name\":\"clip\",\"before\":\"value:1\",\
                  \"after\":\"global-norm:1\"}\n";
    let log = log_of(2) + &step_line(3, 1e8) + &step_line(4, 0.5) + change + &step_line(5, 0.5);
    runs.run("changed", &(log + &end_line(5, "finished")));
    let address = served(&runs);
    browser.open(&address);
    browser.until("document.querySelectorAll('tr[data-run]').length === 1");
    let policy = "[...document.querySelectorAll('.facts div')]
        .find((fact) => fact.querySelector('dt').textContent === 'policy')
        ?.querySelector('dd').textContent";
    for (step, expected) in [(3, "value:1"), (4, "value:1"), (5, "global-norm:1")] {
        browser.value(&format!("location.hash = '#/run/changed/step/{step}'"));
        browser.until(&format!(
            "document.getElementById('page').dataset.step === '{step}'"
        ));
        assert_eq!(browser.value(policy), expected, "step {step}");
    }
    browser.value("location.hash = '#/run/changed/step/3'");
    browser.until(
        "document.querySelector('.lead')?.textContent.endsWith('to 1.000, by more than 99.9 %.')",
    );
    assert!(browser.errors.is_empty(), "{:#?}", browser.errors);
}
