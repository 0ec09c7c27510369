//! Topics and their settings: DescribeConfigs, CreateTopics, IncrementalAlterConfigs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bodley_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use bodley_protocol::messages::create_topics_response::CreatableTopicResult;
use bodley_protocol::messages::describe_configs_request::DescribeConfigsResource;
use bodley_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use bodley_protocol::messages::{
    CreateTopicsRequest, DescribeConfigsRequest, IncrementalAlterConfigsRequest, TopicName,
};
use bodley_protocol::{ErrorCode, RetryClass, StrBytes};

use super::cluster::{Cluster, To};
use super::error::{KafkaError, words};

pub(super) const TOPIC_RESOURCE: i8 = 2;
const SOURCE_DYNAMIC_TOPIC: i8 = 1;
pub(super) const OP_SET: i8 = 0;
const OP_DELETE: i8 = 1;
/// Topics per request; a controller refuses more than 10,000 records of metadata at once.
const TOPICS_PER_REQUEST: usize = 500;
const PARTITIONS_PER_REQUEST: usize = 2000;

/// A setting of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `None` where the broker hides it.
    pub value: Option<String>,
    /// Set on the topic itself, not inherited.
    pub is_own: bool,
}

/// All settings of a topic that a broker lists, by name.
pub type Configs = BTreeMap<String, Config>;

/// A topic to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    /// Name.
    pub name: Arc<str>,
    /// Number of partitions.
    pub partitions: i32,
    /// -1: the cluster's default.
    pub replication_factor: i16,
    /// Settings.
    pub configs: BTreeMap<String, String>,
}

/// A setting to change: `Some` sets, `None` goes back to what is inherited.
pub type Change = (String, Option<String>);

pub(super) fn string(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn refused(api: &'static str, subject: &str, code: i16, message: Option<StrBytes>) -> Result<(), KafkaError> {
    let (subject, message) = (subject.to_owned(), message.and_then(|m| words(&m)));
    let code = ErrorCode(code);
    code.check().map_err(|code| KafkaError::Refused { api, subject, code, message })
}

impl Cluster {
    /// The settings of each topic.
    pub async fn describe_configs(
        &self,
        topics: &[Arc<str>],
    ) -> Result<BTreeMap<Arc<str>, Configs>, KafkaError> {
        self.describe(To::Any, topics).await
    }

    async fn describe(&self, to: To, topics: &[Arc<str>]) -> Result<BTreeMap<Arc<str>, Configs>, KafkaError> {
        let mut all = BTreeMap::new();
        for names in topics.chunks(TOPICS_PER_REQUEST) {
            let resources = names.iter().map(|name| {
                DescribeConfigsResource::default()
                    .with_resource_type(TOPIC_RESOURCE)
                    .with_resource_name(string(name))
                    .with_configuration_keys(None)
            });
            let request = DescribeConfigsRequest::default().with_resources(resources.collect());
            let response = match to {
                To::Any => self.call(to, &request).await?,
                To::Broker(_) => self.call_once(to, i16::MAX, &request).await?,
            };
            for result in response.results {
                refused("DescribeConfigs", &result.resource_name, result.error_code, result.error_message)?;
                let configs = result.configs.into_iter().map(|config| {
                    let value = config.value.map(|value| value.to_string());
                    (
                        config.name.to_string(),
                        Config { value, is_own: config.config_source == SOURCE_DYNAMIC_TOPIC },
                    )
                });
                all.insert(Arc::from(result.resource_name.as_str()), configs.collect());
            }
        }
        match topics.iter().find(|topic| !all.contains_key(*topic)) {
            Some(topic) => Err(KafkaError::left_out("DescribeConfigs", topic)),
            None => Ok(all),
        }
    }

    /// What a topic of this cluster has where it has no setting of its own, as `topic` tells it.
    pub async fn inherited_configs(&self, topic: &Arc<str>) -> Result<BTreeMap<String, String>, KafkaError> {
        let resource = DescribeConfigsResource::default()
            .with_resource_type(TOPIC_RESOURCE)
            .with_resource_name(string(topic))
            .with_configuration_keys(None);
        let request =
            DescribeConfigsRequest::default().with_resources(vec![resource]).with_include_synonyms(true);
        let mut inherited = BTreeMap::new();
        for result in self.call(To::Any, &request).await?.results {
            refused("DescribeConfigs", &result.resource_name, result.error_code, result.error_message)?;
            for config in result.configs {
                let is_own = config.config_source == SOURCE_DYNAMIC_TOPIC;
                let mut synonyms = config.synonyms.into_iter().filter(|s| s.source != SOURCE_DYNAMIC_TOPIC);
                let value = if is_own { synonyms.next().and_then(|s| s.value) } else { config.value };
                inherited.extend(value.map(|value| (config.name.to_string(), value.to_string())));
            }
        }
        Ok(inherited)
    }

    /// What a new topic would have where it has no setting of its own. Empty where the cluster does not tell (before Kafka 2.4, or not allowed).
    pub async fn configs_of_new(
        &self,
        topic: &Arc<str>,
    ) -> Result<BTreeMap<String, Option<String>>, KafkaError> {
        let trial = CreatableTopic::default()
            .with_name(TopicName(string(topic)))
            .with_num_partitions(1)
            .with_replication_factor(1);
        let request = CreateTopicsRequest::default()
            .with_topics(vec![trial])
            .with_timeout_ms(self.options().request_timeout.as_millis() as i32)
            .with_validate_only(true);
        let created = self.create(&request).await?.into_iter().next();
        let configs = created.and_then(|created| created.configs).unwrap_or_default();
        Ok(configs
            .into_iter()
            .map(|c| (c.name.to_string(), c.value.map(|value| value.to_string())))
            .collect())
    }

    /// The settings of a topic as one broker sees them. Not tried twice.
    pub async fn describe_topic_at(&self, broker: i32, topic: &str) -> Result<Configs, KafkaError> {
        let mut results = self.describe(To::Broker(broker), &[Arc::from(topic)]).await?;
        Ok(results.remove(topic).unwrap_or_default())
    }

    /// Creates topics; `validate_only` only asks whether it would work. The result of each topic stands at its place.
    pub async fn create_topics(
        &self,
        topics: &[NewTopic],
        validate_only: bool,
    ) -> Result<Vec<Result<(), KafkaError>>, KafkaError> {
        let mut results = Vec::with_capacity(topics.len());
        let mut rest = topics;
        while !rest.is_empty() {
            let mut partitions = 0;
            let fits = |topic: &&NewTopic| {
                partitions += topic.partitions.max(1) as usize;
                partitions <= PARTITIONS_PER_REQUEST
            };
            let n = rest.iter().take_while(fits).count().clamp(1, TOPICS_PER_REQUEST);
            let (batch, behind) = rest.split_at(n);
            results.extend(self.create_batch(batch, validate_only).await?);
            rest = behind;
        }
        Ok(results)
    }

    /// Asks the controller, and the next one if it moves.
    async fn create(&self, request: &CreateTopicsRequest) -> Result<Vec<CreatableTopicResult>, KafkaError> {
        self.retrying(|| self.ask_controller(request)).await
    }

    async fn ask_controller(
        &self,
        request: &CreateTopicsRequest,
    ) -> Result<Vec<CreatableTopicResult>, KafkaError> {
        let to = self.layout().controller.map_or(To::Any, To::Broker);
        let answers = self.call_once(to, i16::MAX, request).await?.topics;
        let elsewhere =
            |topic: &&CreatableTopicResult| ErrorCode(topic.error_code) == ErrorCode::NOT_CONTROLLER;
        if let Some(topic) = answers.iter().find(elsewhere) {
            refused("CreateTopics", &topic.name, topic.error_code, topic.error_message.clone())?;
        }
        Ok(answers)
    }

    async fn create_batch(
        &self,
        topics: &[NewTopic],
        validate_only: bool,
    ) -> Result<Vec<Result<(), KafkaError>>, KafkaError> {
        let request = CreateTopicsRequest::default()
            .with_topics(topics.iter().map(creatable).collect())
            .with_timeout_ms(self.options().request_timeout.as_millis() as i32)
            .with_validate_only(validate_only);
        let mut backoff = self.backoff();
        loop {
            let answers = self.create(&request).await?;
            let by_name: BTreeMap<&str, _> = answers.iter().map(|t| (t.name.as_str(), t)).collect();
            let result = |topic: &NewTopic| match by_name.get(&*topic.name) {
                // Asked for because it was missing: an earlier try whose answer was lost made it.
                Some(t) if !validate_only && ErrorCode(t.error_code) == ErrorCode::TOPIC_ALREADY_EXISTS => {
                    Ok(())
                }
                Some(t) => refused("CreateTopics", &topic.name, t.error_code, t.error_message.clone()),
                None => Err(KafkaError::NoRoute(format!("no answer for topic {}", topic.name))),
            };
            let results: Vec<_> = topics.iter().map(result).collect();
            // Refused for a quota. Those that were created are there at the next try, which is as good.
            let passing =
                |r: &Result<(), KafkaError>| r.as_ref().is_err_and(|e| e.retry_class() != RetryClass::Never);
            if !results.iter().any(passing) || !backoff.wait().await {
                return Ok(results);
            }
        }
    }

    /// Changes settings of topics, several of one topic in one step; `validate_only` only asks whether it would work. Goes on after a refusal:
    /// the errors of all topics that were refused.
    pub async fn alter_configs(
        &self,
        changes: &[(Arc<str>, Vec<Change>)],
        validate_only: bool,
    ) -> Vec<KafkaError> {
        let mut errors = Vec::new();
        for batch in changes.chunks(TOPICS_PER_REQUEST) {
            let result = self.retrying(|| self.alter_batch(batch, validate_only)).await;
            match result {
                Ok(refused) => errors.extend(refused),
                Err(error) => errors.push(error),
            }
        }
        errors
    }

    /// The refusals of single topics; a passing one is an error of the whole, to be tried again.
    async fn alter_batch(
        &self,
        changes: &[(Arc<str>, Vec<Change>)],
        validate_only: bool,
    ) -> Result<Vec<KafkaError>, KafkaError> {
        let resources = changes.iter().map(|(topic, configs)| {
            let configs = configs.iter().map(|(name, value)| {
                AlterableConfig::default()
                    .with_name(string(name))
                    .with_config_operation(if value.is_some() { OP_SET } else { OP_DELETE })
                    .with_value(value.as_deref().map(string))
            });
            AlterConfigsResource::default()
                .with_resource_type(TOPIC_RESOURCE)
                .with_resource_name(string(topic))
                .with_configs(configs.collect())
        });
        let request = IncrementalAlterConfigsRequest::default()
            .with_resources(resources.collect())
            .with_validate_only(validate_only);
        let mut errors = Vec::new();
        let responses = self.call(To::Any, &request).await?.responses;
        let answered: BTreeSet<&str> =
            responses.iter().map(|response| response.resource_name.as_str()).collect();
        if let Some((topic, _)) = changes.iter().find(|(topic, _)| !answered.contains(&**topic)) {
            return Err(KafkaError::left_out("IncrementalAlterConfigs", topic));
        }
        for response in responses {
            let (name, message) = (&response.resource_name, response.error_message);
            match refused("IncrementalAlterConfigs", name, response.error_code, message) {
                Err(error) if error.retry_class() != RetryClass::Never => return Err(error),
                result => errors.extend(result.err()),
            }
        }
        Ok(errors)
    }
}

fn creatable(topic: &NewTopic) -> CreatableTopic {
    let configs = topic.configs.iter().map(|(name, value)| {
        CreatableTopicConfig::default().with_name(string(name)).with_value(Some(string(value)))
    });
    CreatableTopic::default()
        .with_name(TopicName(string(&topic.name)))
        .with_num_partitions(topic.partitions)
        .with_replication_factor(topic.replication_factor)
        .with_configs(configs.collect())
}
