//! The command line.

use std::path::PathBuf;

/// What was asked for.
#[derive(Debug, Clone)]
pub struct Args {
    /// A file, or a folder of files; the sample NDA by default.
    pub input: PathBuf,
    /// Where everything goes.
    pub out: PathBuf,
    /// End the process hard after this step.
    pub kill_after: Option<String>,
}

const USAGE: &str = "\
usage: nda_review [--input PATH] [--out DIR] [--kill-after STEP]
  --input PATH       an NDA (PDF, DOCX, TXT) or a folder of them; default: the sample of this example
  --out DIR          where everything goes; default: target/nda_review
  --kill-after STEP  end the process hard after this step (validate, drive_fetch, document_parser, kb_search,
                     compose, slack_post, verify_quotes); the same command without it goes on from there";

impl Args {
    /// Reads the process's arguments.
    ///
    /// # Errors
    /// The usage, with what is wrong.
    pub fn read() -> Result<Self, String> {
        let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/nda_review/samples/hartwell_mutual_nda.pdf");
        let mut args = Self { input: sample.into(), out: "target/nda_review".into(), kill_after: None };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value\n{USAGE}"));
            match word.as_str() {
                "--input" => args.input = value()?.into(),
                "--out" => args.out = value()?.into(),
                "--kill-after" => args.kill_after = Some(value()?),
                "--help" | "-h" => return Err(USAGE.to_owned()),
                other => return Err(format!("unknown argument {other}\n{USAGE}")),
            }
        }
        Ok(args)
    }
}
