//! How far something has come: a bar on a terminal, a line in the log elsewhere.

use std::io::IsTerminal;

use cloze::checkpoint::hub;
use indicatif::{ProgressBar, ProgressStyle};

/// Shows downloads.
#[derive(Default)]
pub struct Download {
    bar: Option<ProgressBar>,
    file: String,
}

const DOWNLOAD: &str = "{msg} {bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";

impl hub::Progress for Download {
    fn begin(&mut self, file: &str, bytes: u64, present: u64) {
        file.clone_into(&mut self.file);
        if std::io::stderr().is_terminal() {
            let style = ProgressStyle::with_template(DOWNLOAD).expect("a template of ours");
            let bar = ProgressBar::new(bytes)
                .with_style(style)
                .with_message(self.file.clone());
            // What is there already is no part of the rate.
            self.bar = Some(bar.with_position(present).with_elapsed(std::time::Duration::ZERO));
        } else if present > 0 {
            tracing::info!("downloading {file}, {bytes} bytes, of which {present} are here already");
        } else {
            tracing::info!("downloading {file}, {bytes} bytes");
        }
    }

    fn reached(&mut self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
        }
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish();
        }
    }
}
