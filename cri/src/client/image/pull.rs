//! `cellblock image pull`: a bar for each layer on a terminal, else a line for each change.

use std::collections::HashMap;
use std::io::{IsTerminal, Read};
use std::path::Path;

use anyhow::Context as _;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use proto::admin::{LayerPhase, LayerProgress, PullWithProgressRequest};
use serde_json::json;

use super::super::{answer, connect_admin, refused};
use super::show;
use crate::client::{outcome::Outcome, table};

/// Bytes of a password.
const PASSWORD_MAX: u64 = 64 << 10;
/// Digits of a layer's digest before its bar.
const SHORT: usize = 12;
const BAR: &str = "{prefix} {msg:11} [{bar:30}] {bytes:>11} / {total_bytes:11} {bytes_per_sec}";

pub(super) async fn pull(state: &Path, image: &str, username: Option<&str>, quiet: bool) -> anyhow::Result<Outcome> {
    let password = username.map(|_| password()).transpose()?.unwrap_or_default();
    let username = username.unwrap_or_default().to_owned();
    let request = PullWithProgressRequest { image: image.to_owned(), username, password };
    let mut messages = answer(connect_admin(state).await?.pull_with_progress(request).await)?;
    let mut layers = Layers::new(quiet);
    while let Some(message) = messages.message().await.map_err(refused)? {
        if let Some(layer) = message.layer {
            layers.show(&layer);
        }
        if let Some(image) = message.image {
            layers.end();
            let text = format!("{}{}\n", show::names(std::slice::from_ref(&image)), image.id);
            return Ok(Outcome { text, json: json!({ "image": show::admin_json(&image) }) });
        }
    }
    anyhow::bail!("the server ended before the pull did")
}

/// Reads the password to the end of the standard input, without the end of its line.
fn password() -> anyhow::Result<String> {
    let mut password = String::new();
    let read = std::io::stdin().lock().take(PASSWORD_MAX).read_to_string(&mut password);
    read.context("cannot read the password from the standard input")?;
    Ok(password.trim_end_matches(['\r', '\n']).to_owned())
}

/// What is shown of the layers, on the standard error.
struct Layers {
    shown: HashMap<String, (LayerPhase, ProgressBar)>,
    bars: MultiProgress,
    form: Form,
}

#[derive(PartialEq, Eq)]
enum Form {
    Bars,
    Lines,
    Nothing,
}

impl Layers {
    fn new(quiet: bool) -> Self {
        let form = match (quiet, std::io::stderr().is_terminal()) {
            (true, _) => Form::Nothing,
            (false, true) => Form::Bars,
            (false, false) => Form::Lines,
        };
        Self { shown: HashMap::new(), bars: MultiProgress::new(), form }
    }

    fn show(&mut self, layer: &LayerProgress) {
        let phase = layer.phase();
        let known = self.shown.get(&layer.digest).map(|(phase, _)| *phase);
        if self.form == Form::Lines && known != Some(phase) {
            eprintln!("{} {} {}", show::short(&layer.digest, SHORT), word(phase), table::bytes(layer.total));
        }
        let bars = (self.form == Form::Bars).then_some(&self.bars);
        let entry = self.shown.entry(layer.digest.clone()).or_insert_with(|| {
            let bar = bars.map_or_else(ProgressBar::hidden, |bars| bars.add(ProgressBar::new(layer.total)));
            let style = ProgressStyle::with_template(BAR).expect("the template is well formed");
            (
                phase,
                bar.with_style(style.progress_chars("=> ")).with_prefix(show::short(&layer.digest, SHORT).to_owned()),
            )
        });
        entry.0 = phase;
        entry.1.set_message(word(phase));
        entry.1.set_position(layer.done);
        if phase == LayerPhase::Complete {
            entry.1.finish();
        }
    }

    /// Completes what a slow terminal has missed.
    fn end(&self) {
        for (_, bar) in self.shown.values() {
            bar.finish_with_message(word(LayerPhase::Complete));
        }
    }
}

fn word(phase: LayerPhase) -> &'static str {
    match phase {
        LayerPhase::Waiting => "waiting",
        LayerPhase::Downloading => "downloading",
        LayerPhase::Unpacking => "unpacking",
        LayerPhase::Complete => "complete",
    }
}
