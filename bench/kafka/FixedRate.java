import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;
import java.util.Random;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.locks.LockSupport;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;

/**
 * Open-loop acknowledgement latency in microseconds: FixedRate BOOTSTRAP TOPIC RATE SECONDS WARMUP_SECONDS RECORD_BYTES [key=value...]
 *
 * <p>Record n is due at n / RATE seconds whether or not earlier ones were answered; its latency runs from that moment to its
 * acknowledgement, so time spent queueing counts. Prints one JSON object.
 */
public class FixedRate {
  public static void main(String[] args) throws Exception {
    int rate = Integer.parseInt(args[2]);
    int measured = rate * Integer.parseInt(args[3]);
    int warmup = rate * Integer.parseInt(args[4]);
    byte[] value = new byte[Integer.parseInt(args[5])];
    new Random(1).nextBytes(value);
    Map<String, Object> settings = new HashMap<>(Map.of("bootstrap.servers", args[0], "acks", "all", "linger.ms", "0",
        "key.serializer", "org.apache.kafka.common.serialization.ByteArraySerializer",
        "value.serializer", "org.apache.kafka.common.serialization.ByteArraySerializer"));
    for (String extra : Arrays.copyOfRange(args, 6, args.length)) settings.put(extra.split("=", 2)[0], extra.split("=", 2)[1]);
    int[] micros = new int[measured];
    AtomicInteger errors = new AtomicInteger();
    double seconds;
    try (KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(settings)) {
      producer.partitionsFor(args[1]);
      long start = System.nanoTime();
      for (int n = 0; n < warmup + measured; n++) {
        long due = start + n * 1_000_000_000L / rate;
        for (long now = System.nanoTime(); now < due; now = System.nanoTime()) LockSupport.parkNanos(due - now);
        int slot = n - warmup;
        producer.send(new ProducerRecord<>(args[1], value), (place, error) -> {
          if (error != null) errors.incrementAndGet();
          else if (slot >= 0) micros[slot] = (int) Math.min(Integer.MAX_VALUE, (System.nanoTime() - due) / 1000);
        });
      }
      producer.flush();
      seconds = (System.nanoTime() - start) / 1e9;
    }
    Arrays.sort(micros);
    System.out.printf("{\"records\": %d, \"errors\": %d, \"records_per_s\": %.0f, \"mean_us\": %.0f, \"p50_us\": %d, \"p99_us\": %d, \"p999_us\": %d, \"max_us\": %d}%n",
        warmup + measured, errors.get(), (warmup + measured) / seconds, Arrays.stream(micros).average().orElse(0),
        at(micros, 0.5), at(micros, 0.99), at(micros, 0.999), at(micros, 1));
  }

  static int at(int[] sorted, double quantile) {
    return sorted[(int) Math.max(0, Math.ceil(quantile * sorted.length) - 1)];
  }
}
