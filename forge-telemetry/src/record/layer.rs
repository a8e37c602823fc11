//! The `tracing` layer.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use forge_core::redact::{RedactOptions, Redactor};
use forge_core::{Clock, Result, TenantId, Timestamp};
use tracing::Subscriber;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use super::RecordedSpan;
use super::writer::Writer;

/// Records the spans that forge-core opens. Cheap to clone.
///
/// Lines go to a thread of its own through a queue of 4,096. A full queue holds the caller back until the disk has caught up; what
/// the disk refuses is counted in [`dropped`](Self::dropped). When the last clone is dropped, it waits for the disk and the thread
/// ends; a recorder in a global subscriber is never dropped, so a host calls [`flush`](Self::flush) before it ends. A killed process
/// loses what was in the queue and no more.
#[derive(Clone)]
pub struct SpanRecorder(Arc<Inner>);

struct Inner {
    writer: Writer,
    clock: Arc<dyn Clock>,
    redactor: Arc<dyn Redactor>,
    /// Masks need no key; the redactor's interface names a tenant all the same.
    nobody: TenantId,
}

impl SpanRecorder {
    /// Appends to a file, of this process or of one before it. Names and attributes are masked before they are queued; a value that
    /// cannot be scanned reads `[withheld]`. One process at a time writes to a file.
    ///
    /// # Errors
    /// `Unavailable` if the file cannot be opened.
    pub fn to_file(path: impl AsRef<Path>, clock: Arc<dyn Clock>, redactor: Arc<dyn Redactor>) -> Result<Self> {
        let nobody = TenantId::parse("spans")?;
        Ok(Self(Arc::new(Inner { writer: Writer::open(path.as_ref())?, clock, redactor, nobody })))
    }

    /// Waits until every span that was opened or closed so far is with the operating system: a kill does not take it any more, a
    /// power cut may. Blocks its thread.
    pub fn flush(&self) {
        self.0.writer.flush();
    }

    /// How many lines could not be written. Anything but zero: the file does not tell everything.
    pub fn dropped(&self) -> u64 {
        self.0.writer.dropped()
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
        self.0.writer.append(self.recorded(&open, None));
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
        self.0.writer.append(self.recorded(&open, Some(took)));
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
