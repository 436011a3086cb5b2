//! `millstream group`: shows consumer groups and how far they have read, and removes them.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use millstream_client::{
    admin::{Admin, GroupDescription, OffsetAt},
    consumer::TopicPartition,
};
use serde_json::json;

use super::{
    connect::{Common, Output, runtime},
    error::CliError,
    output::Out,
};

#[derive(Debug, Args)]
pub(super) struct GroupArgs {
    #[command(subcommand)]
    command: GroupCommand,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Subcommand)]
enum GroupCommand {
    /// List groups.
    List,
    /// Show a group's members, what they have read, and what is left.
    Describe {
        /// Its name.
        name: String,
    },
    /// Remove groups that have no members, and what they have noted.
    Delete {
        /// Their names.
        #[arg(required = true)]
        names: Vec<String>,
    },
}

/// Does what the command line says.
pub(super) fn run(args: GroupArgs) -> Result<(), CliError> {
    let (admin, output) = (Admin::new(args.common.cluster()), args.common.output);
    runtime()?.block_on(async move {
        let mut out = Out::new();
        match args.command {
            GroupCommand::List => list(&admin, output, &mut out).await?,
            GroupCommand::Describe { name } => describe(&admin, &name, output, &mut out).await?,
            GroupCommand::Delete { names } => {
                for name in names {
                    admin.delete_group(&name).await?;
                    match output {
                        Output::Table => out.line(&format!("group '{name}' deleted"))?,
                        Output::Json => out.json(&json!({ "group": name, "result": "deleted" }))?,
                    }
                }
            }
        }
        out.flush()
    })
}

async fn list(admin: &Admin, output: Output, out: &mut Out) -> Result<(), CliError> {
    let groups = admin.groups().await?;
    match output {
        Output::Json => {
            let all = groups.iter().map(|group| {
                json!({ "name": group.name, "protocol_type": group.protocol_type, "state": group.state })
            });
            out.json(&all.collect::<Vec<_>>())
        }
        Output::Table => {
            let rows: Vec<Vec<String>> =
                groups.into_iter().map(|group| vec![group.name, group.state, group.protocol_type]).collect();
            out.table(&["GROUP", "STATE", "TYPE"], &rows)
        }
    }
}

/// How far a group has read one partition.
struct Reading {
    partition: TopicPartition,
    noted: Option<i64>,
    end: Option<i64>,
    member: Option<String>,
}

impl Reading {
    /// Records that are left.
    fn lag(&self) -> Option<i64> {
        Some((self.end? - self.noted?).max(0))
    }
}

async fn readings(admin: &Admin, group: &GroupDescription) -> Result<Vec<Reading>, CliError> {
    let noted = admin.group_offsets(&group.name).await?;
    let mut members: BTreeMap<TopicPartition, String> = BTreeMap::new();
    for member in &group.members {
        members.extend(member.assignment.iter().map(|partition| (partition.clone(), member.id.clone())));
    }
    let partitions: std::collections::BTreeSet<TopicPartition> =
        noted.keys().chain(members.keys()).cloned().collect();
    let mut ends = BTreeMap::new();
    for (partition, answer) in admin.offsets(partitions.iter().cloned().collect(), OffsetAt::Latest).await {
        // A topic that is gone has no end; what the group has noted of it is still shown.
        ends.extend(answer.ok().flatten().map(|found| (partition, found.offset)));
    }
    let reading = |partition: TopicPartition| Reading {
        noted: noted.get(&partition).copied(),
        end: ends.get(&partition).copied(),
        member: members.get(&partition).cloned(),
        partition,
    };
    Ok(partitions.into_iter().map(reading).collect())
}

async fn describe(admin: &Admin, name: &str, output: Output, out: &mut Out) -> Result<(), CliError> {
    let group = admin.describe_group(name).await?;
    let readings = readings(admin, &group).await?;
    match output {
        Output::Json => describe_json(&group, &readings, out),
        Output::Table => describe_table(&group, &readings, out),
    }
}

fn describe_json(group: &GroupDescription, readings: &[Reading], out: &mut Out) -> Result<(), CliError> {
    let members = group.members.iter().map(|member| {
        let assignment =
            member.assignment.iter().map(|p| json!({ "topic": &*p.topic, "partition": p.partition }));
        json!({
            "id": member.id,
            "client_id": member.client_id,
            "host": member.host,
            "assignment": assignment.collect::<Vec<_>>(),
        })
    });
    let offsets = readings.iter().map(|reading| {
        json!({
            "topic": &*reading.partition.topic,
            "partition": reading.partition.partition,
            "offset": reading.noted,
            "end_offset": reading.end,
            "lag": reading.lag(),
            "member": reading.member,
        })
    });
    out.json(&json!({
        "name": group.name,
        "state": group.state,
        "protocol_type": group.protocol_type,
        "protocol": group.protocol,
        "members": members.collect::<Vec<_>>(),
        "offsets": offsets.collect::<Vec<_>>(),
    }))
}

fn describe_table(group: &GroupDescription, readings: &[Reading], out: &mut Out) -> Result<(), CliError> {
    let lag: i64 = readings.iter().filter_map(Reading::lag).sum();
    let (name, state, members) = (&group.name, &group.state, group.members.len());
    let unknown = readings.iter().filter(|reading| reading.lag().is_none()).count();
    let but = if unknown > 0 {
        format!(", not counting {unknown} partitions of which it has noted nothing")
    } else {
        String::new()
    };
    out.line(&format!("group '{name}' is {state}, has {members} members and {lag} records to read{but}"))?;
    let known = |n: Option<i64>| n.map_or_else(|| "-".to_string(), |n| n.to_string());
    let row = |reading: &Reading| {
        vec![
            reading.partition.topic.to_string(),
            reading.partition.partition.to_string(),
            known(reading.noted),
            known(reading.end),
            known(reading.lag()),
            reading.member.clone().unwrap_or_else(|| "-".to_string()),
        ]
    };
    let rows: Vec<Vec<String>> = readings.iter().map(row).collect();
    out.table(&["TOPIC", "PARTITION", "OFFSET", "END", "LAG", "MEMBER"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_known_when_both_ends_are() {
        let reading = |noted, end| Reading {
            partition: TopicPartition { topic: "t".into(), partition: 0 },
            noted,
            end,
            member: None,
        };
        assert_eq!(reading(Some(3), Some(10)).lag(), Some(7));
        assert_eq!(reading(Some(12), Some(10)).lag(), Some(0));
        assert_eq!(reading(None, Some(10)).lag(), None);
    }
}
