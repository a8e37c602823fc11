//! Many calls as one: what comes while a batch is under way goes with the next, so that nobody waits for a timer.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::OnceLock;

use forge_core::{Error, ErrorKind, Result};
use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

/// Calls that wait for their batch; more wait at the door.
const WAITING: usize = 4096;

type Item<I, O> = (I, oneshot::Sender<Result<O>>);

/// Collects calls. A call that is dropped is made all the same. The task behind it begins with the first call and ends with the batcher.
pub(super) struct Batcher<I, O> {
    run: std::sync::Mutex<Option<Run<I, O>>>,
    sender: OnceLock<mpsc::Sender<Item<I, O>>>,
    most: usize,
}

type Run<I, O> = Box<dyn Fn(Vec<I>) -> BoxFuture<'static, Vec<Result<O>>> + Send + Sync>;

impl<I: Send + 'static, O: Send + 'static> Batcher<I, O> {
    /// At most so many in one batch. `run` gives one answer for each item, in their order.
    pub(super) fn new<F>(most: usize, run: impl Fn(Vec<I>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Vec<Result<O>>> + Send + 'static,
    {
        let run: Run<I, O> = Box::new(move |items| Box::pin(run(items)));
        Self { run: std::sync::Mutex::new(Some(run)), sender: OnceLock::new(), most }
    }

    pub(super) async fn call(&self, operation: &'static str, item: I) -> Result<O> {
        let gone = || Error::new(ErrorKind::Cancelled, operation, "the queue is shutting down");
        let (answer, answered) = oneshot::channel();
        self.sender().send((item, answer)).await.map_err(|_| gone())?;
        answered.await.unwrap_or_else(|_| Err(gone()))
    }

    fn sender(&self) -> &mpsc::Sender<Item<I, O>> {
        self.sender.get_or_init(|| {
            let (sender, receiver) = mpsc::channel(WAITING);
            let run = self.run.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
            if let Some(run) = run {
                tokio::spawn(serve(receiver, self.most, run));
            }
            sender
        })
    }
}

async fn serve<I, O>(mut receiver: mpsc::Receiver<Item<I, O>>, most: usize, run: Run<I, O>) {
    let mut waiting = Vec::new();
    while receiver.recv_many(&mut waiting, most).await > 0 {
        let (items, answers): (Vec<I>, Vec<_>) = waiting.drain(..).unzip();
        for (answer, outcome) in answers.into_iter().zip(run(items).await) {
            // nobody may be waiting any more
            let _ = answer.send(outcome);
        }
    }
}

/// Answers for all of a call, or its error for each.
pub(super) fn each<O>(outcomes: Result<Vec<O>>, all: usize) -> Vec<Result<O>> {
    match outcomes {
        Ok(outcomes) => outcomes.into_iter().map(Ok).collect(),
        Err(e) => (0..all).map(|_| Err(same(&e))).collect(),
    }
}

/// One batch of several tenants: a call for each group, its answers put where its items were. What is wrong with one group's keys is not
/// the others' matter; a server that does not answer is not asked for each.
pub(super) async fn grouped<'a, K: Ord + Send, I: Sync, O: Send>(
    items: &'a [I],
    group: impl Fn(&'a I) -> K + Send,
    call: impl Fn(K, Vec<&'a I>) -> BoxFuture<'a, Result<Vec<O>>> + Send,
) -> Vec<Result<O>> {
    let mut groups: BTreeMap<K, Vec<(usize, &'a I)>> = BTreeMap::new();
    for (place, item) in items.iter().enumerate() {
        groups.entry(group(item)).or_default().push((place, item));
    }
    let mut outcomes = Vec::with_capacity(items.len());
    let mut gone = None;
    for (key, members) in groups {
        let (places, some): (Vec<usize>, Vec<&'a I>) = members.into_iter().unzip();
        let all = some.len();
        let answers = match &gone {
            None => call(key, some).await,
            Some(e) => Err(same(e)),
        };
        if let Err(e) = &answers
            && matches!(e.kind(), ErrorKind::Unavailable | ErrorKind::Timeout)
        {
            gone = Some(same(e));
        }
        outcomes.extend(places.into_iter().zip(each(answers, all)));
    }
    outcomes.sort_by_key(|(place, _)| *place);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

/// The error of a batch, for one of its calls.
fn same(e: &Error) -> Error {
    let copy = Error::new(e.kind(), e.operation(), e.message().to_owned()).with_retry(e.retry());
    e.context().fold(copy.with_adapter(e.adapter().unwrap_or("redis")), |copy, (k, v)| copy.with(k, v))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn what_comes_meanwhile_goes_together_and_each_gets_its_answer() {
        let batches = Arc::new(AtomicUsize::new(0));
        let counted = batches.clone();
        let batcher = Batcher::new(64, move |items: Vec<u32>| {
            let n = counted.fetch_add(1, Ordering::SeqCst);
            async move {
                tokio::task::yield_now().await;
                let all = items.len();
                let twice = items.into_iter().map(|i| i * 2).collect();
                each(if n == 0 { Ok(twice) } else { Err(Error::invalid("t", "no")) }, all)
            }
        });
        let first = batcher.call("t", 21).await.unwrap();
        let rest = futures::future::join_all((0..50).map(|i| batcher.call("t", i))).await;
        assert_eq!(first, 42);
        assert!(rest.iter().all(|r| r.as_ref().is_err_and(|e| e.kind() == ErrorKind::InvalidInput)));
        assert!(batches.load(Ordering::SeqCst) <= 3, "fifty calls are one batch or two");
    }
}
