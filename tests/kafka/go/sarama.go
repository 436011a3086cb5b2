package main

import (
	"context"
	"fmt"

	"github.com/IBM/sarama"
)

func saramaRoundTrip(ctx context.Context, bootstrap, topic, codec string, records int) error {
	config := sarama.NewConfig()
	config.Version = sarama.V2_8_0_0
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Producer.Idempotent = true
	config.Net.MaxOpenRequests = 1
	config.Producer.Return.Successes = true
	config.Producer.Partitioner = sarama.NewManualPartitioner
	if err := config.Producer.Compression.UnmarshalText([]byte(codec)); err != nil {
		return err
	}
	admin, err := sarama.NewClusterAdmin([]string{bootstrap}, config)
	if err != nil {
		return err
	}
	defer admin.Close()
	if err := admin.CreateTopic(topic, &sarama.TopicDetail{NumPartitions: partitions, ReplicationFactor: 1}, false); err != nil {
		return err
	}
	if err := saramaProduce(bootstrap, topic, config, records); err != nil {
		return err
	}
	consumer, err := sarama.NewConsumer([]string{bootstrap}, config)
	if err != nil {
		return err
	}
	defer consumer.Close()
	for p := range partitions {
		if err := saramaConsume(ctx, consumer, topic, p, records); err != nil {
			return err
		}
	}
	return nil
}

func saramaProduce(bootstrap, topic string, config *sarama.Config, records int) error {
	producer, err := sarama.NewSyncProducer([]string{bootstrap}, config)
	if err != nil {
		return err
	}
	defer producer.Close()
	messages := make([]*sarama.ProducerMessage, records)
	for i := range messages {
		messages[i] = &sarama.ProducerMessage{Topic: topic, Partition: int32(i % partitions), Key: sarama.StringEncoder(key(i)), Value: sarama.StringEncoder(value(i))}
		for _, h := range headers(i) {
			messages[i].Headers = append(messages[i].Headers, sarama.RecordHeader{Key: []byte(h.key), Value: []byte(h.value)})
		}
	}
	if err := producer.SendMessages(messages); err != nil {
		return err
	}
	for i, m := range messages {
		if m.Offset != int64(i/partitions) {
			return fmt.Errorf("record %d acknowledged at %d/%d", i, m.Partition, m.Offset)
		}
	}
	return nil
}

func saramaConsume(ctx context.Context, consumer sarama.Consumer, topic string, partition, records int) error {
	stream, err := consumer.ConsumePartition(topic, int32(partition), sarama.OffsetOldest)
	if err != nil {
		return err
	}
	defer stream.Close()
	for following := int64(0); int(following)*partitions+partition < records; following++ {
		select {
		case <-ctx.Done():
			return fmt.Errorf("partition %d: only %d records in time", partition, following)
		case m := <-stream.Messages():
			var got []header
			for _, h := range m.Headers {
				got = append(got, header{string(h.Key), string(h.Value)})
			}
			if err := expect(partition, following, m.Offset, string(m.Key), string(m.Value), got); err != nil {
				return err
			}
		}
	}
	return nil
}
