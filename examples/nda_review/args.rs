//! The command line.

use std::path::PathBuf;

use forge::memory::openai::OpenAiConfig;

/// What was asked for.
#[derive(Debug, Clone)]
pub struct Args {
    /// A file, or a folder of files; the sample NDA by default.
    pub input: PathBuf,
    /// Where everything goes.
    pub out: PathBuf,
    /// End the process hard after this step.
    pub kill_after: Option<String>,
    /// A language model to ask.
    pub model: Option<OpenAiConfig>,
}

const USAGE: &str = "\
usage: nda_review [--input PATH] [--out DIR] [--kill-after STEP] [--model URL [--model-name NAME] [--model-key REF]]
  --input PATH       an NDA (PDF, DOCX, TXT) or a folder of them; default: the sample of this example
  --out DIR          where everything goes; default: target/nda_review
  --kill-after STEP  end the process hard after this step (validate, drive_fetch, document_parser, kb_search,
                     compose, slack_post, verify_quotes); the same command without it goes on from there
  --model URL        a language model behind OpenAI's chat-completions interface, such as https://api.openai.com/v1; needs
                     `--features memory-openai` at the build. It is asked the same questions; what it cannot quote is not believed
  --model-name NAME  as the endpoint calls it; default: gpt-4.1-mini
  --model-key REF    where its key is: env:NAME or file:PATH";

impl Args {
    /// Reads the process's arguments.
    ///
    /// # Errors
    /// The usage, with what is wrong.
    pub fn read() -> Result<Self, String> {
        let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/nda_review/samples/hartwell_mutual_nda.pdf");
        let mut args = Self { input: sample.into(), out: "target/nda_review".into(), kill_after: None, model: None };
        let (mut url, mut name, mut key) = (None, None, None);
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value\n{USAGE}"));
            match word.as_str() {
                "--input" => args.input = value()?.into(),
                "--out" => args.out = value()?.into(),
                "--kill-after" => args.kill_after = Some(value()?),
                "--model" => url = Some(value()?),
                "--model-name" => name = Some(value()?),
                "--model-key" => key = Some(value()?),
                "--help" | "-h" => return Err(USAGE.to_owned()),
                other => return Err(format!("unknown argument {other}\n{USAGE}")),
            }
        }
        if url.is_none() && (name.is_some() || key.is_some()) {
            return Err(format!("--model-name and --model-key go with --model\n{USAGE}"));
        }
        args.model = url.map(|url| OpenAiConfig::new(url, name.unwrap_or_else(|| "gpt-4.1-mini".to_owned())));
        if let (Some(model), Some(key)) = (&mut args.model, key) {
            model.key = Some(key.parse().map_err(|e| format!("--model-key: {e}\n{USAGE}"))?);
        }
        Ok(args)
    }
}
