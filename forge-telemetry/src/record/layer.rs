//! The `tracing` layer.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use forge_core::redact::{RedactOptions, Redactor};
use forge_core::{Clock, Error, ErrorKind, Result, TenantId, Timestamp};
use tracing::Subscriber;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use super::RecordedSpan;

/// Lines that may wait for the disk; a caller beyond that waits, no span is dropped.
const QUEUE: usize = 4096;

/// Records the spans that forge-core opens. Cheap to clone; when the last clone is gone, its writer ends.
#[derive(Clone)]
pub struct SpanRecorder(Arc<Inner>);

struct Inner {
    lines: Mutex<SyncSender<Line>>,
    clock: Arc<dyn Clock>,
    redactor: Arc<dyn Redactor>,
    /// Masks need no key; the redactor's interface names a tenant all the same.
    nobody: TenantId,
}

enum Line {
    Span(Box<RecordedSpan>),
    Flush(Sender<()>),
}

impl SpanRecorder {
    /// Appends to a file. Attributes are masked before they are written.
    ///
    /// # Errors
    /// `Unavailable` if the file cannot be opened.
    pub fn to_file(path: impl AsRef<Path>, clock: Arc<dyn Clock>, redactor: Arc<dyn Redactor>) -> Result<Self> {
        let unavailable =
            |e| Error::new(ErrorKind::Unavailable, "spans.open", "the file of spans cannot be opened").with_source(e);
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true).open(path).map_err(unavailable)?;
        let (lines, queued) = sync_channel(QUEUE);
        std::thread::Builder::new()
            .name("forge-spans".into())
            .spawn(move || write(file, &queued))
            .map_err(unavailable)?;
        Ok(Self(Arc::new(Inner { lines: Mutex::new(lines), clock, redactor, nobody: TenantId::parse("spans")? })))
    }

    /// Waits until every span that was closed so far is in the file.
    pub fn flush(&self) {
        let (done, wait) = channel();
        if self.send(Line::Flush(done)) {
            // an error means that the writer is gone, and everything before it written
            let _ = wait.recv();
        }
    }

    fn send(&self, line: Line) -> bool {
        let sender = self.0.lines.lock().unwrap_or_else(PoisonError::into_inner).clone();
        sender.send(line).is_ok()
    }

    fn masked(&self, value: &str) -> String {
        let masked = self.0.redactor.redact(&self.0.nobody, value.into(), &RedactOptions::mask_all());
        masked.map_or_else(|_| "[withheld]".to_owned(), |m| m.into_owned())
    }
}

/// Fields that are the span's own, not attributes.
const OWN: [&str; 4] = ["trace_id", "span_id", "parent_span_id", "otel.name"];

impl SpanRecorder {
    fn recorded(&self, open: &OpenSpan, took: Option<Duration>) -> RecordedSpan {
        let own = |name| open.fields.0.get(name).cloned().unwrap_or_default();
        let attributes = open.fields.0.iter().filter(|(name, _)| !OWN.contains(name));
        RecordedSpan {
            trace_id: own("trace_id"),
            span_id: own("span_id"),
            parent_span_id: own("parent_span_id"),
            name: self.masked(&own("otel.name")),
            start: open.wall.as_nanos(),
            end: open.wall.after(took.unwrap_or_default()).as_nanos(),
            closed: took.is_some(),
            attributes: attributes.map(|(name, value)| (attribute(name), self.masked(value))).collect(),
        }
    }
}

fn write(mut file: std::fs::File, queued: &Receiver<Line>) {
    while let Ok(line) = queued.recv() {
        match line {
            Line::Span(span) => {
                // one call a line: a crash tears at most the last one
                let Ok(mut text) = serde_json::to_string(&span) else { continue };
                text.push('\n');
                if let Err(e) = file.write_all(text.as_bytes()) {
                    tracing::warn!(error = %e, "a span could not be written");
                }
            }
            Line::Flush(done) => drop(done.send(())),
        }
    }
}

/// A span that is open: when it began, and its fields so far.
struct OpenSpan {
    wall: Timestamp,
    began: Duration,
    fields: Fields,
}

#[derive(Default)]
struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for SpanRecorder {
    fn on_new_span(&self, attrs: &Attributes<'_>, id: &Id, ctx: Context<'_, S>) {
        if attrs.metadata().target() != "forge" {
            return;
        }
        let Some(span) = ctx.span(id) else { return };
        let mut fields = Fields::default();
        attrs.record(&mut fields);
        let open = OpenSpan { wall: self.0.clock.now(), began: self.0.clock.monotonic(), fields };
        self.send(Line::Span(Box::new(self.recorded(&open, None))));
        span.extensions_mut().insert(open);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, ctx: Context<'_, S>) {
        if let Some(span) = ctx.span(id)
            && let Some(open) = span.extensions_mut().get_mut::<OpenSpan>()
        {
            values.record(&mut open.fields);
        }
    }

    fn on_close(&self, id: Id, ctx: Context<'_, S>) {
        let Some(open) = ctx.span(&id).and_then(|s| s.extensions_mut().remove::<OpenSpan>()) else { return };
        let took = self.0.clock.monotonic().saturating_sub(open.began).max(Duration::from_nanos(1));
        self.send(Line::Span(Box::new(self.recorded(&open, Some(took)))));
    }
}

/// The name that OpenTelemetry has for a field, or our own.
fn attribute(field: &str) -> String {
    match field {
        "error" => "error.type".to_owned(),
        other => format!("forge.{other}"),
    }
}

impl fmt::Debug for SpanRecorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SpanRecorder")
    }
}
