//! A router without an opinion.

use async_trait::async_trait;

use crate::model::CompletionRequest;
use crate::route::{Candidate, ModelRouter};
use crate::{Depth, ExecutionContext, Health, HealthCheck, Result};

/// Leaves the candidates in the order in which they are given.
#[derive(Debug, Clone, Copy, Default)]
pub struct FakeRouter;

#[async_trait]
impl HealthCheck for FakeRouter {
    async fn check(&self, _: Depth) -> Health {
        Health::up()
    }
}

#[async_trait]
impl ModelRouter for FakeRouter {
    async fn route(&self, _: &ExecutionContext, _: &CompletionRequest, of: &[Candidate]) -> Result<Vec<String>> {
        Ok(of.iter().map(|c| c.model.clone()).collect())
    }
}
