//! The suite of [`LanguageModel`].

use std::sync::Arc;

use super::fixture::{Fixture, prints_no_secret};
use super::hostile::HOSTILE;
use super::spy::{Called, Spy, spy};
use super::{context, fake_guard};
use crate::fake::{FakePolicy, ManualClock};
use crate::guard::Guarded;
use crate::model::{Completion, CompletionRequest, LanguageModel, Message, ModelCapability};
use crate::time::{Clock, SystemClock};
use crate::{Depth, ErrorKind, ExecutionContext, Result, Status};

spy! { LanguageModel:
    async fn complete(&self, ctx: &ExecutionContext, request: CompletionRequest) -> Result<Completion>;
    fn model(&self) -> &str;
    fn capability(&self) -> ModelCapability;
}

/// Runs every scenario on fresh providers that `fresh` makes, bare and behind the guard. Each must be able to answer a few
/// questions about a short text.
///
/// # Panics
/// With the scenario's name, where the provider does not keep the [contract](LanguageModel).
pub async fn language_model(fresh: impl AsyncFn() -> Fixture<dyn LanguageModel>) {
    let called = Called::default();
    for guarded in [false, true] {
        let made = async || fresh().await.map(|model| wrap(model, &called, guarded));
        answers_and_counts(&made().await).await;
        cites_what_is_there(&made().await).await;
        takes_any_text(&made().await).await;
        refuses_an_empty_conversation(&made().await).await;
        the_server_goes_away(made().await).await;
        let f = made().await;
        prints_no_secret(f.adapter.as_ref(), &f.secrets);
        assert_eq!(f.adapter.check(Depth::Deep).await.status, Status::Up, "healthy when fresh");
        if guarded {
            nothing_begins_late(&f).await;
        }
    }
    called.complete::<dyn LanguageModel>();
}

fn wrap(model: Arc<dyn LanguageModel>, called: &Called, guarded: bool) -> Arc<dyn LanguageModel> {
    let spied: Arc<dyn LanguageModel> = Arc::new(Spy::new(model, called));
    let guard = || fake_guard(FakePolicy::allow_all(), Arc::new(SystemClock)).guard;
    if guarded { Arc::new(Guarded::new(spied, guard())) } else { spied }
}

const TEXT: &str =
    "This agreement is governed by the laws of Oregon. It ends after three years. Notices are in writing.";

fn ask(question: &str, text: &str) -> CompletionRequest {
    CompletionRequest::new(vec![Message::system(question), Message::user(text)]).with_max_tokens(64)
}

async fn answers_and_counts(f: &Fixture<dyn LanguageModel>) {
    let ana = context("acme", "ana", "analyst");
    let can = f.adapter.capability();
    let answer = f.adapter.complete(&ana, ask("which laws govern?", TEXT)).await.expect("an answer");
    assert!(
        !f.adapter.model().is_empty() && !answer.model.is_empty(),
        "a model has a name, and an answer says whose it is"
    );
    // no tokenizer writes more than a token a byte
    assert!(answer.text.len() <= 64 * 16, "at most as many tokens as were asked for: {} bytes", answer.text.len());
    let tokens = answer.quantity.tokens_in + answer.quantity.tokens_out;
    assert!(can.language_model || tokens == 0, "what is no language model counts no tokens");
    assert_eq!(answer.quantity.tool_calls, 0, "an answer is no call of a tool");
    let again = f.adapter.complete(&ana, ask("which laws govern?", TEXT)).await.expect("an answer");
    let twice = answer.response_id.is_some() && answer.response_id == again.response_id;
    assert!(!twice || can.cache.is_some(), "two answers have two ids: the second is billed too");
}

async fn cites_what_is_there(f: &Fixture<dyn LanguageModel>) {
    if !f.adapter.capability().citations {
        return;
    }
    let ana = context("acme", "ana", "analyst");
    let answer = f.adapter.complete(&ana, ask("which laws govern?", TEXT)).await.expect("an answer");
    for c in &answer.citations {
        let (said, source) = (answer.text.get(c.answer.clone()), TEXT.get(c.source.clone()));
        assert!(said.is_some() && said == source, "capability: `citations` stand in the text, word for word: {c:?}");
    }
    assert!(!answer.citations.is_empty(), "capability: `citations` are given");
}

async fn takes_any_text(f: &Fixture<dyn LanguageModel>) {
    let ana = context("acme", "ana", "analyst");
    for text in HOSTILE.iter().take(6) {
        let outcome = f.adapter.complete(&ana, ask(text, text)).await.map(|_| ()).map_err(|e| e.kind());
        let fine = matches!(outcome, Ok(()) | Err(ErrorKind::InvalidInput));
        assert!(fine, "hostile ids: a text is only words: {text:?} {outcome:?}");
    }
}

async fn refuses_an_empty_conversation(f: &Fixture<dyn LanguageModel>) {
    let ana = context("acme", "ana", "analyst");
    let empty = f.adapter.complete(&ana, CompletionRequest::new(vec![])).await.map(|_| ()).map_err(|e| e.kind());
    assert_eq!(empty, Err(ErrorKind::InvalidInput), "a conversation without a message");
    if let Some(context) = f.adapter.capability().context {
        let long = "word ".repeat(usize::try_from(context).expect("a context fits") * 2);
        let over = f.adapter.complete(&ana, ask("?", &long)).await.map(|_| ()).map_err(|e| e.kind());
        assert_eq!(over, Err(ErrorKind::InvalidInput), "capability: more than `context` is refused");
    }
}

async fn the_server_goes_away(mut f: Fixture<dyn LanguageModel>) {
    if f.lose_server().await {
        let outcome = f.adapter.complete(&context("acme", "ana", "analyst"), ask("?", TEXT)).await;
        let kind = outcome.map(|_| ()).map_err(|e| e.kind());
        assert!(matches!(kind, Err(ErrorKind::Unavailable | ErrorKind::Timeout)), "server gone: {kind:?}");
        assert_eq!(f.adapter.check(Depth::Deep).await.status, Status::Down, "server gone: health says so");
    }
}

async fn nothing_begins_late(f: &Fixture<dyn LanguageModel>) {
    let ctx = context("acme", "ana", "analyst");
    let late = ctx.clone().with_deadline(ManualClock::default().now());
    let outcome = f.adapter.complete(&late, ask("?", TEXT)).await.map(|_| ()).map_err(|e| e.kind());
    assert_eq!(outcome, Err(ErrorKind::Timeout), "passed deadline");
    ctx.cancellation().cancel();
    let outcome = f.adapter.complete(&ctx, ask("?", TEXT)).await.map(|_| ()).map_err(|e| e.kind());
    assert_eq!(outcome, Err(ErrorKind::Cancelled), "cancelled before");
}
