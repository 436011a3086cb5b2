//! Groups: who is in them, and how far they have read.

use std::{collections::BTreeMap, sync::Arc};

use millstream_protocol::{
    ErrorCode, Str,
    messages::{
        delete_groups::DeleteGroupsRequest,
        describe_groups::DescribeGroupsRequest,
        leave_group::{LeaveGroupRequest, MemberIdentity},
        list_groups::ListGroupsRequest,
        offset_fetch::OffsetFetchRequest,
    },
};

use super::Admin;
use crate::{ClientError, cluster::Lane, consumer::TopicPartition};

/// The newest OffsetFetch version that asks for one group.
const FETCH_VERSION_MAX: i16 = 7;

/// A group in few words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupSummary {
    /// Its name.
    pub name: String,
    /// What its members do: `consumer` for those who read.
    pub protocol_type: String,
    /// Kafka's name of its state; empty when the broker does not say.
    pub state: String,
}

/// A group and its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupDescription {
    /// Its name.
    pub name: String,
    /// Kafka's name of its state.
    pub state: String,
    /// What its members do.
    pub protocol_type: String,
    /// How partitions are given to them.
    pub protocol: String,
    /// The members.
    pub members: Vec<GroupMember>,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMember {
    /// Its id.
    pub id: String,
    /// The name under which it keeps its place while it is away, if it has one.
    pub instance: Option<String>,
    /// What it calls itself.
    pub client_id: String,
    /// Where it connects from.
    pub host: String,
    /// What it reads; nothing when it does something else.
    pub assignment: Vec<TopicPartition>,
}

impl Admin {
    /// The groups of all brokers, sorted by name.
    pub async fn groups(&self) -> Result<Vec<GroupSummary>, ClientError> {
        let (_, _, brokers) = self.cluster.describe().await?;
        let mut all = Vec::new();
        for broker in brokers {
            let connection = self.cluster.broker(broker.id, Lane::Ask).await?;
            let version = connection.version::<ListGroupsRequest>(i16::MAX)?;
            let answer = connection.call_in(version, &ListGroupsRequest::default()).await?;
            ClientError::check(
                answer.error_code,
                || format!("list the groups of broker {}", broker.id),
                None,
            )?;
            all.extend(answer.groups.into_iter().map(|group| GroupSummary {
                name: group.group_id.to_string(),
                protocol_type: group.protocol_type.to_string(),
                state: group.group_state.to_string(),
            }));
        }
        all.sort();
        all.dedup();
        Ok(all)
    }

    /// A group and its members.
    pub async fn describe_group(&self, group: &str) -> Result<GroupDescription, ClientError> {
        let connection = self.cluster.broker(self.cluster.coordinator(group).await?, Lane::Ask).await?;
        let request =
            DescribeGroupsRequest { groups: vec![Str::from(group.to_string())], ..Default::default() };
        let answer =
            connection.call_in(connection.version::<DescribeGroupsRequest>(i16::MAX)?, &request).await?;
        let found = answer.groups.into_iter().next().unwrap_or_default();
        let reason = found.error_message.map(|reason| reason.to_string()).filter(|reason| !reason.is_empty());
        ClientError::check(found.error_code, || format!("describe group '{group}'"), reason)?;
        let members = found.members.into_iter().map(|member| GroupMember {
            id: member.member_id.to_string(),
            instance: member.group_instance_id.map(|name| name.to_string()),
            client_id: member.client_id.to_string(),
            host: member.client_host.to_string(),
            // Members of other kinds of groups have assignments that only they can read.
            assignment: crate::consumer::read_assignment(member.member_assignment).unwrap_or_default(),
        });
        Ok(GroupDescription {
            name: found.group_id.to_string(),
            state: found.group_state.to_string(),
            protocol_type: found.protocol_type.to_string(),
            protocol: found.protocol_data.to_string(),
            members: members.collect(),
        })
    }

    /// Every offset that a group has committed.
    pub async fn group_offsets(&self, group: &str) -> Result<BTreeMap<TopicPartition, i64>, ClientError> {
        let connection = self.cluster.broker(self.cluster.coordinator(group).await?, Lane::Ask).await?;
        let group_id = Str::from(group.to_string());
        let request = OffsetFetchRequest { group_id, topics: None, ..Default::default() };
        let version = connection.version::<OffsetFetchRequest>(FETCH_VERSION_MAX)?;
        let answer = connection.call_in(version, &request).await?;
        let what = || format!("ask for the offsets of group '{group}'");
        ClientError::check(answer.error_code, what, None)?;
        let mut committed = BTreeMap::new();
        for topic in answer.topics {
            let name: Arc<str> = topic.name.as_str().into();
            let known = topic
                .partitions
                .iter()
                .filter(|p| p.error_code == ErrorCode::NONE.0 && p.committed_offset >= 0);
            committed.extend(known.map(|p| {
                (TopicPartition { topic: name.clone(), partition: p.partition_index }, p.committed_offset)
            }));
        }
        Ok(committed)
    }

    /// Takes a member with a name out of its group, which else would wait for it until its session is over.
    pub async fn remove_member(&self, group: &str, instance: &str) -> Result<(), ClientError> {
        let connection = self.cluster.broker(self.cluster.coordinator(group).await?, Lane::Ask).await?;
        let member =
            MemberIdentity { group_instance_id: Some(Str::from(instance.to_string())), ..Default::default() };
        let group_id = Str::from(group.to_string());
        let request = LeaveGroupRequest { group_id, members: vec![member], ..Default::default() };
        let answer = connection.call_in(connection.version::<LeaveGroupRequest>(i16::MAX)?, &request).await?;
        let what = || format!("take member '{instance}' out of group '{group}'");
        ClientError::check(answer.error_code, what, None)?;
        answer.members.iter().try_for_each(|member| ClientError::check(member.error_code, what, None))
    }

    /// Removes a group that has no members, and what it has committed.
    pub async fn delete_group(&self, group: &str) -> Result<(), ClientError> {
        let connection = self.cluster.broker(self.cluster.coordinator(group).await?, Lane::Ask).await?;
        let request = DeleteGroupsRequest { groups_names: vec![Str::from(group.to_string())] };
        let answer =
            connection.call_in(connection.version::<DeleteGroupsRequest>(i16::MAX)?, &request).await?;
        let result = answer.results.into_iter().next().unwrap_or_default();
        ClientError::check(result.error_code, || format!("delete group '{group}'"), None)
    }
}
