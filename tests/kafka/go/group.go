package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	sessionTimeout = 6 * time.Second
	heartbeatEvery = 500 * time.Millisecond
	pollMax        = 200 * time.Millisecond
)

// What a group member tells its driver: one line for each thing that happened.
var telling sync.Mutex

func tell(words ...any) {
	telling.Lock()
	defer telling.Unlock()
	fmt.Println(words...)
}

func tellAssigned(partitions []int32) {
	slices.Sort(partitions)
	words := []any{"assigned"}
	for _, p := range partitions {
		words = append(words, p)
	}
	tell(words...)
}

// untilInputEnds gives a context that ends with standard input: how a member is told to leave.
func untilInputEnds() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	return ctx
}

type saramaHandler struct{ topic string }

func (h saramaHandler) Setup(session sarama.ConsumerGroupSession) error {
	tellAssigned(slices.Clone(session.Claims()[h.topic]))
	return nil
}

func (saramaHandler) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (saramaHandler) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for m := range claim.Messages() {
		tell("read", m.Partition, m.Offset, string(m.Key))
		session.MarkMessage(m, "")
		if len(claim.Messages()) == 0 {
			// A commit waits its turn behind the fetch that is under way, up to half a second: not one for each record.
			// It does not say whether it worked, so that no place is told.
			session.Commit()
			tell("committed")
		}
	}
	return nil
}

func saramaMember(ctx context.Context, bootstrap, topic, group string) error {
	config := sarama.NewConfig()
	config.Version = sarama.V2_8_0_0
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	config.Consumer.Offsets.AutoCommit.Enable = false
	config.Consumer.Group.Session.Timeout = sessionTimeout
	config.Consumer.Group.Heartbeat.Interval = heartbeatEvery
	// It cannot be made while no broker is there.
	config.Metadata.Retry.Max = attemptsMax
	consumer, err := sarama.NewConsumerGroup([]string{bootstrap}, group, config)
	if err != nil {
		return err
	}
	defer consumer.Close()
	for ctx.Err() == nil {
		// It ends with each rebalance, and with an error while no broker is there: its users call it again.
		if err := consumer.Consume(ctx, []string{topic}, saramaHandler{topic}); err != nil {
			time.Sleep(pollMax)
		}
	}
	return nil
}

func kafkaGoMember(ctx context.Context, bootstrap, topic, group string) error {
	consumers, err := kafka.NewConsumerGroup(kafka.ConsumerGroupConfig{
		ID: group, Brokers: []string{bootstrap}, Topics: []string{topic}, StartOffset: kafka.FirstOffset, SessionTimeout: sessionTimeout, HeartbeatInterval: heartbeatEvery,
	})
	if err != nil {
		return err
	}
	defer consumers.Close()
	for refused := 0; ; {
		generation, err := consumers.Next(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			// A coordinator that is only just starting says so; other errors come again.
			if refused++; refused > 20 {
				return err
			}
			continue
		}
		var assigned []int32
		for _, place := range generation.Assignments[topic] {
			assigned = append(assigned, int32(place.ID))
			generation.Start(func(ctx context.Context) { kafkaGoPartition(ctx, generation, bootstrap, topic, place) })
		}
		tellAssigned(assigned)
	}
}

func kafkaGoPartition(ctx context.Context, generation *kafka.Generation, bootstrap, topic string, place kafka.PartitionAssignment) {
	reader := kafka.NewReader(kafka.ReaderConfig{Brokers: []string{bootstrap}, Topic: topic, Partition: place.ID, MaxWait: 200 * time.Millisecond})
	defer reader.Close()
	if err := reader.SetOffset(place.Offset); err != nil {
		tell("error", err)
		return
	}
	for {
		m, err := reader.ReadMessage(ctx)
		if err != nil {
			if !errors.Is(err, kafka.ErrGenerationEnded) && ctx.Err() == nil {
				tell("error", err)
			}
			return
		}
		tell("read", m.Partition, m.Offset, string(m.Key))
		if generation.CommitOffsets(map[string]map[int]int64{topic: {place.ID: m.Offset + 1}}) == nil {
			tell("committed", m.Partition, m.Offset+1)
		}
	}
}

func franzMember(ctx context.Context, bootstrap, topic, group string) error {
	var lock sync.Mutex
	assigned := map[int32]bool{}
	change := func(partitions []int32, have bool) {
		lock.Lock()
		defer lock.Unlock()
		var now []int32
		for _, p := range partitions {
			assigned[p] = have
		}
		for p, have := range assigned {
			if have {
				now = append(now, p)
			}
		}
		tellAssigned(now)
	}
	take := func(_ context.Context, _ *kgo.Client, places map[string][]int32) { change(places[topic], true) }
	give := func(_ context.Context, _ *kgo.Client, places map[string][]int32) { change(places[topic], false) }
	// Its default balancer is the cooperative one: members keep what stays theirs.
	client, err := kgo.NewClient(kgo.SeedBrokers(bootstrap), kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.SessionTimeout(sessionTimeout), kgo.HeartbeatInterval(heartbeatEvery),
		kgo.OnPartitionsAssigned(take), kgo.OnPartitionsRevoked(give), kgo.OnPartitionsLost(give))
	if err != nil {
		return err
	}
	defer client.Close()
	for ctx.Err() == nil {
		turn, cancel := context.WithTimeout(ctx, pollMax)
		for _, r := range client.PollFetches(turn).Records() {
			tell("read", r.Partition, r.Offset, string(r.Key))
		}
		cancel()
		positions := client.UncommittedOffsets()[topic]
		// While the group is rebalanced or the broker is away this fails, and the next round tries again.
		if len(positions) > 0 && client.CommitUncommittedOffsets(context.Background()) == nil {
			words := []any{"committed"}
			for p, position := range positions {
				words = append(words, p, position.Offset)
			}
			tell(words...)
		}
	}
	return nil
}
