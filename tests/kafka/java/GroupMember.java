import java.time.Duration;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;

/** kafka-clients: GroupMember group BOOTSTRAP TOPIC GROUP; tells what it is assigned, reads and commits, and leaves when standard input ends. */
public class GroupMember {
  static volatile boolean stopping;

  static void tell(Object... words) {
    StringBuilder line = new StringBuilder();
    for (Object word : words) line.append(line.length() == 0 ? "" : " ").append(word);
    System.out.println(line);
  }

  static void watchInput() {
    try {
      while (System.in.read() >= 0) {}
    } catch (java.io.IOException ended) {
      // as good as the end of input
    }
    stopping = true;
  }

  static void tellCommitted(Map<TopicPartition, OffsetAndMetadata> positions) {
    StringBuilder line = new StringBuilder("committed");
    positions.forEach((place, position) -> line.append(" ").append(place.partition()).append(" ").append(position.offset()));
    tell(line);
  }

  public static void main(String[] args) {
    Thread watcher = new Thread(GroupMember::watchInput);
    watcher.setDaemon(true);
    watcher.start();
    Map<String, Object> settings = Map.of("bootstrap.servers", args[1], "group.id", args[3], "enable.auto.commit", "false",
        "auto.offset.reset", "earliest", "session.timeout.ms", "6000", "heartbeat.interval.ms", "500",
        "key.deserializer", "org.apache.kafka.common.serialization.StringDeserializer",
        "value.deserializer", "org.apache.kafka.common.serialization.StringDeserializer");
    // What was read and not committed yet, of partitions that are still this member's.
    Map<TopicPartition, OffsetAndMetadata> pending = new HashMap<>();
    try (KafkaConsumer<String, String> consumer = new KafkaConsumer<>(settings)) {
      consumer.subscribe(List.of(args[2]), new ConsumerRebalanceListener() {
        @Override
        public void onPartitionsRevoked(Collection<TopicPartition> revoked) {
          pending.keySet().removeAll(revoked);
        }

        @Override
        public void onPartitionsAssigned(Collection<TopicPartition> assigned) {
          TreeSet<Integer> partitions = new TreeSet<>();
          for (TopicPartition place : consumer.assignment()) partitions.add(place.partition());
          tell("assigned", String.join(" ", partitions.stream().map(String::valueOf).toList()));
        }
      });
      while (!stopping) {
        for (ConsumerRecord<String, String> record : consumer.poll(Duration.ofMillis(200))) {
          tell("read", record.partition(), record.offset(), record.key());
          pending.put(new TopicPartition(record.topic(), record.partition()), new OffsetAndMetadata(record.offset() + 1));
        }
        if (pending.isEmpty()) continue;
        try {
          consumer.commitSync(pending, Duration.ofSeconds(5));
          tellCommitted(pending);
          pending.clear();
        } catch (KafkaException refused) {
          // The group is being rebalanced or the broker is away: the next round tries again.
        }
      }
    }
  }
}
