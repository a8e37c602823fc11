//! From adapters, tools, workflows and configuration to a running host, in the one right order, with every problem at once.

use std::fmt;
use std::sync::Arc;

use forge_core::embed::Embedder;
use forge_core::guard::{Guard, GuardParts, Guarded, Models, ToolSet, Tools};
use forge_core::metrics::Metrics;
use forge_core::model::LanguageModel;
use forge_core::policy::PolicyEngine;
use forge_core::queue::{TaskHandler, TaskQueue};
use forge_core::route::ModelRouter;
use forge_core::secret::{SecretProvider, Secrets};
use forge_core::tool::{Probe, Tool, ToolEnv};
use forge_core::usage::Pricing;
use forge_core::vector::VectorStore;
use forge_core::{
    Clock, Depth, Directory, Error, ErrorKind, HealthCheck, Principal, PrincipalResolver, Slug, Status, SystemClock,
    TenantId,
};
use forge_memory::Memory;
use forge_queue::schedule::{Scheduler, Schedules};
use forge_queue::worker::{Worker, WorkerParts};
use forge_queue::workflow::{Engine, EngineParts, Observer, Workflow};
use serde_json::Value;

#[cfg(feature = "queue-redis")]
use crate::embedded::Upkeep;
use crate::embedded::{self, Stores};
use crate::forge::{Beat, Parts};
use crate::tasks::{Asked, Embed, EmbedDocument, ExecuteStage, LlamaIndexTool, Stages, stages_of};
use crate::{BuildError, Config, Forge};

/// Policies and their data; see [`forge_policy::Sources`].
pub use forge_policy::Sources as Policies;

/// Collects what a host is made of. Nothing is opened before [`build`](Self::build).
#[must_use]
pub struct ForgeBuilder {
    config: Config,
    policies: Policies,
    tools: ToolSet,
    workflows: Vec<Workflow>,
    handlers: Vec<(String, Arc<dyn TaskHandler>)>,
    asked: Vec<Asked>,
    directory: Directory,
    principals: Option<Arc<dyn PrincipalResolver>>,
    secrets: Secrets,
    clock: Arc<dyn Clock>,
    models: Vec<Arc<dyn LanguageModel>>,
    router: Option<Arc<dyn ModelRouter>>,
    embedder: Option<Arc<dyn Embedder>>,
    vectors: Option<Arc<dyn VectorStore>>,
    pricing: Option<Arc<dyn Pricing>>,
    metrics: Option<Arc<dyn Metrics>>,
    observer: Option<Observer>,
    problems: Vec<Error>,
}

impl ForgeBuilder {
    pub(crate) fn new() -> Self {
        Self {
            config: Config::default(),
            policies: forge_policy::standard(),
            tools: ToolSet::new(),
            workflows: Vec::new(),
            handlers: Vec::new(),
            asked: Vec::new(),
            directory: Directory::default(),
            principals: None,
            secrets: Secrets::standard(),
            clock: Arc::new(SystemClock),
            models: Vec::new(),
            router: None,
            embedder: None,
            vectors: None,
            pricing: None,
            metrics: None,
            observer: None,
            problems: Vec::new(),
        }
    }

    /// Sets the configuration; the defaults otherwise.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Replaces the policies; by default the standard ones, which deny whatever no tenant's data grants.
    pub fn policies(mut self, policies: Policies) -> Self {
        self.policies = policies;
        self
    }

    /// Adds what the policies know of a tenant: grants by role, channels, approvers.
    pub fn tenant(mut self, tenant: &str, data: Value) -> Self {
        match TenantId::parse(tenant) {
            Ok(tenant) => self.policies = self.policies.with_tenant_data(tenant, data),
            Err(e) => self.problems.push(e.with("of", "builder.tenant")),
        }
        self
    }

    /// Adds an employee whom a stage of a workflow may name.
    pub fn employee(mut self, principal: Principal) -> Self {
        self.directory = self.directory.with(principal);
        self
    }

    /// Replaces the directory of employees.
    pub fn principals(mut self, principals: impl PrincipalResolver) -> Self {
        self.principals = Some(Arc::new(principals));
        self
    }

    /// Adds a tool. From here on it can be reached through the guard only.
    pub fn tool(mut self, tool: impl Tool) -> Self {
        self.tools = self.tools.tool(tool);
        self
    }

    /// Adds a tool whose effect can be looked up after a crash.
    pub fn probed_tool(mut self, tool: impl Probe) -> Self {
        self.tools = self.tools.probed(tool);
        self
    }

    /// Adds a tool of LlamaIndex that a Python worker has; see [`LlamaIndexTool`].
    pub fn llamaindex_tool(mut self, tool: LlamaIndexTool) -> Self {
        self.asked.push(tool.asked());
        self.tool(tool)
    }

    /// Adds tools.
    pub fn tools(mut self, tools: ToolSet) -> Self {
        self.tools = self.tools.with(tools);
        self
    }

    /// Adds a workflow.
    pub fn workflow(mut self, workflow: Workflow) -> Self {
        self.workflows.push(workflow);
        self
    }

    /// Adds the handler for queued tasks of a name.
    pub fn task(mut self, name: impl Into<String>, handler: impl TaskHandler) -> Self {
        self.handlers.push((name.into(), Arc::new(handler)));
        self
    }

    /// Adds a provider of secrets.
    pub fn secrets(mut self, provider: impl SecretProvider) -> Self {
        self.secrets = self.secrets.with(provider);
        self
    }

    /// Replaces the clock.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Adds a language model, beside that of the configuration's `memory.openai`. Of several, the policy says which may be used and the router which is best. Without one there is
    /// `local/extractive-1`, which is none and says so.
    pub fn model(mut self, model: Arc<dyn LanguageModel>) -> Self {
        self.models.push(model);
        self
    }

    /// Replaces the router between several language models; by default [`forge_memory::StandardRouter`].
    pub fn router(mut self, router: Arc<dyn ModelRouter>) -> Self {
        self.router = Some(router);
        self
    }

    /// Replaces the embedder.
    pub fn embedder(mut self, embedder: Arc<dyn Embedder>) -> Self {
        self.embedder = Some(embedder);
        self
    }

    /// Replaces the vector store.
    pub fn vectors(mut self, vectors: Arc<dyn VectorStore>) -> Self {
        self.vectors = Some(vectors);
        self
    }

    /// Replaces the prices; the example prices otherwise.
    pub fn pricing(mut self, pricing: impl Pricing) -> Self {
        self.pricing = Some(Arc::new(pricing));
        self
    }

    /// Takes the metrics; they are dropped otherwise.
    pub fn metrics(mut self, metrics: Arc<dyn Metrics>) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// Is told of every event of every run after it is on the disk. It must not block.
    pub fn observe_runs(mut self, observer: Observer) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Opens the stores, loads the policies, assembles the guard, seals the tools, checks the health of everything, and goes on
    /// with every run that a crash left.
    ///
    /// # Errors
    /// Every problem of configuration, policies, tools and workflows at once; or what could not be opened.
    pub async fn build(mut self) -> Result<Forge, BuildError> {
        let mut problems = self.take_problems();
        problems.extend(self.config.problems().into_iter().map(Error::from));
        let handlers = named(self.take_handlers(), &mut problems);
        let policy = forge_policy::RegorusEngine::load(self.policies.clone(), self.clock.clone()).await;
        let policy = policy.map_err(|e| problems.push(e)).ok();
        let store =
            embedded::open(&self.config, &self.secrets, self.clock.clone()).await.map_err(|e| problems.push(e)).ok();
        let (Some(policy), Some(store), true) = (policy, store, problems.is_empty()) else {
            return Err(BuildError::new(problems));
        };
        let pricing = match self.take_pricing() {
            Some(pricing) => pricing,
            None => Arc::new(forge_metering::PriceBook::example()?),
        };
        self.models.extend(configured_models(&self.config, &self.secrets)?);
        let store = on_redis(store, &self.config, &self.secrets, &self.clock).await?;
        let forge = self.assemble(store, Arc::new(policy), pricing, handlers)?;
        begin(forge).await
    }

    /// What is wrong with tools and workflows, and what was noted so far.
    pub(crate) fn take_problems(&mut self) -> Vec<Error> {
        let mut problems = std::mem::take(&mut self.problems);
        problems.extend(self.tools.problems());
        problems.extend(Engine::problems(&self.workflows, &|tool| self.tools.contains(tool)));
        problems
    }

    pub(crate) fn take_handlers(&mut self) -> Vec<(String, Arc<dyn TaskHandler>)> {
        std::mem::take(&mut self.handlers)
    }

    pub(crate) fn take_pricing(&mut self) -> Option<Arc<dyn Pricing>> {
        self.pricing.take()
    }

    /// Puts everything together; the worker serves when it returns.
    pub(crate) fn assemble(
        self,
        store: Stores,
        policy: Arc<dyn PolicyEngine>,
        pricing: Arc<dyn Pricing>,
        handlers: Vec<(Slug, Arc<dyn TaskHandler>)>,
    ) -> Result<Forge, BuildError> {
        let clock = self.clock;
        let metrics = self.metrics.unwrap_or_else(|| Arc::new(forge_core::metrics::NoMetrics));
        let parts = GuardParts {
            policy: policy.clone(),
            approvals: store.approvals.clone(),
            redactor: store.redactor.clone(),
            keyring: store.keyring.clone(),
            quota: store.quota.clone(),
            pricing,
            ledger: store.ledger.clone(),
            audit: store.audit.clone(),
            metrics: metrics.clone(),
            clock: clock.clone(),
        };
        let guard = Guard::with_settings(parts, self.config.guard);
        let blobs = Guarded::new(store.blobs.clone(), guard.clone());
        let vectors = Guarded::new(self.vectors.unwrap_or(store.vectors), guard.clone());
        let embedder =
            Guarded::new(self.embedder.unwrap_or_else(|| Arc::new(forge_memory::HashEmbedder)), guard.clone());
        let key_values = Guarded::new(store.key_values, guard.clone());
        let preferences = forge_memory::StandardRouter::new(Arc::new(key_values.clone()));
        let mut models = self.models;
        if models.is_empty() {
            models.push(Arc::new(forge_memory::ExtractiveModel));
        }
        let router = self.router.unwrap_or_else(|| Arc::new(preferences.clone()));
        let models = Models::new(guard.clone(), models, router)?;
        let memory = Memory::new(Arc::new(vectors.clone()), Arc::new(embedder.clone()), store.redactor.clone());
        let env = ToolEnv {
            blobs: Arc::new(blobs.clone()),
            vectors: Arc::new(vectors.clone()),
            embedder: Arc::new(embedder.clone()),
            redactor: store.redactor.clone(),
            secrets: self.secrets,
            clock: clock.clone(),
        };
        let queue: Guarded<dyn TaskQueue> = Guarded::new(store.queue.clone(), guard.clone());
        for asked in self.asked {
            asked.connect(Arc::new(queue.clone()), clock.clone());
        }
        let tools = Tools::seal(guard.clone(), env, self.tools).map_err(BuildError::new)?;
        let mut workflows = self.workflows;
        workflows.extend(stages_of(&workflows));
        let engine = Engine::new(
            EngineParts {
                journal: store.journal.clone(),
                queue: store.queue.clone(),
                tools: tools.clone(),
                models: models.clone(),
                guard: guard.clone(),
                approvals: store.approvals.clone(),
                ledger: store.ledger.clone(),
                audit: store.audit.clone(),
                keyring: store.keyring.clone(),
                metrics: metrics.clone(),
                clock: clock.clone(),
                principals: self.principals.unwrap_or_else(|| Arc::new(self.directory)),
                owner: store.owner,
                limits: self.config.workflow,
                observer: self.observer,
            },
            workflows,
        );
        let engine = engine.map_err(BuildError::new)?;
        let mut worker = Worker::new(WorkerParts {
            broker: store.broker,
            guard: guard.clone(),
            redactor: store.redactor.clone(),
            keyring: store.keyring.clone(),
            metrics,
            clock: clock.clone(),
            concurrency: self.config.queue.concurrency,
            visibility: self.config.queue.visibility_timeout,
        })
        .steps(engine.clone());
        let embed = Embed {
            guard: guard.clone(),
            blobs: Arc::new(blobs.clone()),
            key_values: Arc::new(key_values.clone()),
            memory: memory.clone(),
            keyring: store.keyring.clone(),
        };
        let stages = Stages { engine: engine.clone(), redactor: store.redactor.clone() };
        worker = worker.handler(&Slug::parse(EmbedDocument::NAME)?, Arc::new(embed));
        worker = worker.handler(&Slug::parse(ExecuteStage::NAME)?, Arc::new(stages));
        for (name, handler) in handlers {
            worker = worker.handler(&name, handler);
        }
        let serving = tokio::spawn({
            let worker = worker.clone();
            async move { worker.run().await }
        });
        let schedules = store.upkeep.as_ref().map(|u| Schedules::new(u.schedules.clone(), store.keyring.clone()));
        let beat = schedules.clone().map(|s| Beat::begin(Scheduler::new(s, Arc::new(queue.clone()), clock.clone())));
        let mut checks: Vec<(&'static str, Arc<dyn HealthCheck>)> = vec![
            ("queue", store.journal),
            ("ledger", store.ledger.clone()),
            ("quota", store.quota),
            ("audit", store.audit.clone()),
            ("policy", policy),
            ("blobs", store.blobs),
            ("vectors", Arc::new(vectors)),
            ("embedder", Arc::new(embedder)),
            ("models", Arc::new(models.clone())),
        ];
        // where the journal's store is not the queue's
        checks.extend(store.upkeep.as_ref().and_then(|u| u.check.clone()).map(|check| ("redis", check)));
        Ok(Forge::new(Parts {
            clock,
            guard,
            tools,
            engine,
            worker,
            serving: std::sync::Mutex::new(Some(serving)),
            models,
            preferences,
            queue,
            upkeep: store.upkeep,
            schedules,
            beat,
            key_values,
            blobs,
            memory,
            approvals: store.approvals,
            ledger: store.ledger,
            audit: store.audit,
            exporter: store.exporter,
            redactor: store.redactor,
            keyring: store.keyring,
            checks,
            config: self.config,
        }))
    }
}

/// The stores with the queue that the configuration chose.
#[cfg(feature = "queue-redis")]
async fn on_redis(
    mut store: Stores,
    config: &Config,
    secrets: &Secrets,
    clock: &Arc<dyn Clock>,
) -> Result<Stores, Error> {
    if let Some(redis) = &config.queue.redis {
        let broker = redis.broker(secrets, store.keyring.clone(), clock.clone())?;
        broker.verify().await?;
        let broker = Arc::new(broker);
        let mut upkeep = Upkeep::of(broker.clone());
        upkeep.check = Some(broker.clone());
        if !redis.worker.is_empty() {
            let options = forge_queue::redis::presence::PresenceOptions::new(&redis.worker);
            upkeep._presence = Some(Arc::new(broker.present(options)?));
        }
        (store.queue, store.broker, store.upkeep) = (broker.clone(), broker, Some(upkeep));
    }
    Ok(store)
}

/// As they are: a configuration that chose another queue is refused.
#[cfg(not(feature = "queue-redis"))]
async fn on_redis(store: Stores, _: &Config, _: &Secrets, _: &Arc<dyn Clock>) -> Result<Stores, Error> {
    Ok(store)
}

/// The language models that the configuration chose.
#[cfg(feature = "memory-openai")]
fn configured_models(config: &Config, secrets: &Secrets) -> Result<Vec<Arc<dyn LanguageModel>>, Error> {
    let model = |c: &forge_memory::openai::OpenAiConfig| {
        forge_memory::openai::OpenAiModel::new(c.clone(), secrets.clone())
            .map(|m| Arc::new(m) as Arc<dyn LanguageModel>)
    };
    config.memory.openai.iter().map(model).collect()
}

/// None: a configuration that chose one is refused.
#[cfg(not(feature = "memory-openai"))]
fn configured_models(_: &Config, _: &Secrets) -> Result<Vec<Arc<dyn LanguageModel>>, Error> {
    Ok(Vec::new())
}

pub(crate) fn named(
    handlers: Vec<(String, Arc<dyn TaskHandler>)>,
    problems: &mut Vec<Error>,
) -> Vec<(Slug, Arc<dyn TaskHandler>)> {
    let mut named = Vec::new();
    for (name, handler) in handlers {
        match Slug::parse(&name) {
            Ok(slug) => named.push((slug, handler)),
            Err(e) => problems.push(e.with("of", "builder.task")),
        }
    }
    named
}

/// Goes on with what a crash left, if everything is well.
pub(crate) async fn begin(forge: Forge) -> Result<Forge, BuildError> {
    let begun = async {
        healthy(&forge).await?;
        forge.parts().engine.resume().await.map_err(BuildError::from)
    };
    if let Err(e) = begun.await {
        // the worker serves already
        let _ = forge.shutdown(std::time::Duration::ZERO).await;
        return Err(e);
    }
    Ok(forge)
}

/// A host that cannot do its work does not start.
async fn healthy(forge: &Forge) -> Result<(), BuildError> {
    let down = forge.health(Depth::Deep).await.0.into_iter().filter(|(_, h)| h.status == Status::Down);
    let problems: Vec<Error> = down
        .map(|(name, h)| {
            Error::new(ErrorKind::Unavailable, "build.health", "an adapter is down")
                .with("adapter", name)
                .with("why", h.detail)
        })
        .collect();
    if problems.is_empty() { Ok(()) } else { Err(BuildError::new(problems)) }
}

impl fmt::Debug for ForgeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForgeBuilder")
            .field("config", &self.config)
            .field("workflows", &self.workflows.len())
            .finish_non_exhaustive()
    }
}
