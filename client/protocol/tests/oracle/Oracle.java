import java.io.PrintWriter;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.TreeMap;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.errors.UnsupportedVersionException;
import org.apache.kafka.common.message.ApiMessageType;
import org.apache.kafka.common.message.RequestHeaderData;
import org.apache.kafka.common.message.ResponseHeaderData;
import org.apache.kafka.common.protocol.ByteBufferAccessor;
import org.apache.kafka.common.protocol.Message;
import org.apache.kafka.common.protocol.ObjectSerializationCache;
import org.apache.kafka.common.protocol.types.BoundField;
import org.apache.kafka.common.protocol.types.Field;
import org.apache.kafka.common.protocol.types.RawTaggedField;
import org.apache.kafka.common.protocol.types.Schema;
import org.apache.kafka.common.protocol.types.Struct;
import org.apache.kafka.common.protocol.types.TaggedFields;
import org.apache.kafka.common.protocol.types.Type;
import org.apache.kafka.common.record.internal.MemoryRecords;

/**
 * Kafka's own serializers as the judge of ours.
 *
 * Oracle OURS THEIRS SEED ROUNDS: every frame of OURS (see oracle.rs) is read with Kafka's generated classes, to its end,
 * and written again to the same bytes; and written in another version to the bytes that we write, or refused like us.
 * Then random messages of the same types and versions are made from Kafka's schemas,
 * which know nothing of our notation, and go to THEIRS: once as the generated classes write them, and once as the schemas
 * do, with defaults written out and with unknown tagged fields.
 */
public class Oracle {
    private static final HexFormat HEX = HexFormat.of();
    private static final int UNKNOWN_TAG = 77;

    private final Random random;
    private Random unknownTags;

    private Oracle(long seed) {
        random = new Random(seed);
    }

    public static void main(String[] args) throws Exception {
        int passed = 0, failed = 0, older = 0, converted = 0, refused = 0;
        Map<String, String[]> types = new TreeMap<>();
        for (String line : Files.readAllLines(Path.of(args[0]))) {
            String[] words = line.split(" ");
            short version = Short.parseShort(words[3]);
            if (version < newMessage(words).lowestSupportedVersion()) {
                older++;
                continue;
            }
            types.put(words[0] + " " + words[1] + " " + version, words);
            byte[] frame = HEX.parseHex(words[4]);
            try {
                byte[] again = recode(words, version, frame);
                if (!Arrays.equals(frame, again)) throw new IllegalStateException("is written as " + HEX.formatHex(again));
                if (Short.parseShort(words[5]) >= newMessage(words).lowestSupportedVersion()) {
                    String wanted = converted(words, version, frame);
                    if (!words[6].equals(wanted)) throw new IllegalStateException("in version " + words[5] + ": " + words[6] + ", Kafka: " + wanted);
                    if (wanted.equals("refused")) refused++; else converted++;
                }
                passed++;
            } catch (Exception error) {
                failed++;
                System.out.println("FAIL " + String.join(" ", words[0], words[1], words[3]) + ": " + error + ": " + words[4]);
            }
        }
        Oracle oracle = new Oracle(Long.parseLong(args[2]));
        try (PrintWriter out = new PrintWriter(args[1])) {
            for (String[] words : types.values()) {
                for (int round = 0; round < Integer.parseInt(args[3]); round++) out.println(oracle.line(words));
            }
        }
        System.out.println("rust to java: " + passed + " passed, " + failed + " failed");
        System.out.println("(" + types.size() + " messages in their versions; " + older + " frames of versions that Kafka no longer has; in other versions "
            + converted + " written, " + refused + " refused)");
        System.exit(failed == 0 && passed > 0 ? 0 : 1);
    }

    private static Message newMessage(String[] words) throws Exception {
        short key = Short.parseShort(words[2]);
        switch (words[0]) {
            case "request": return ApiMessageType.fromApiKey(key).newRequest();
            case "response": return ApiMessageType.fromApiKey(key).newResponse();
            default: return (Message) Class.forName("org.apache.kafka.common.message." + words[1]).getConstructor().newInstance();
        }
    }

    /** The header's message and version; null where there is no header. */
    private static Message newHeader(String[] words) {
        return words[0].equals("request") ? new RequestHeaderData() : words[0].equals("response") ? new ResponseHeaderData() : null;
    }

    private static short headerVersion(String[] words, short version) {
        ApiMessageType api = ApiMessageType.fromApiKey(Short.parseShort(words[2]));
        return words[0].equals("request") ? api.requestHeaderVersion(version) : api.responseHeaderVersion(version);
    }

    /** Reads a frame to its end and writes it again. */
    private static byte[] recode(String[] words, short version, byte[] frame) throws Exception {
        ByteBuffer buffer = ByteBuffer.wrap(frame);
        Message header = newHeader(words), body = newMessage(words);
        byte[] front = {};
        if (header != null) {
            header.read(new ByteBufferAccessor(buffer), headerVersion(words, version));
            front = write(header, headerVersion(words, version));
        }
        body.read(new ByteBufferAccessor(buffer), version);
        if (buffer.hasRemaining()) throw new IllegalStateException(buffer.remaining() + " bytes are left");
        return join(front, write(body, version));
    }

    /** The body in the line's other version, the way the line says it. */
    private static String converted(String[] words, short version, byte[] frame) throws Exception {
        ByteBuffer buffer = ByteBuffer.wrap(frame);
        Message header = newHeader(words), body = newMessage(words);
        if (header != null) header.read(new ByteBufferAccessor(buffer), headerVersion(words, version));
        body.read(new ByteBufferAccessor(buffer), version);
        try {
            return "=" + HEX.formatHex(write(body, Short.parseShort(words[5])));
        } catch (UnsupportedVersionException | NullPointerException error) {
            return "refused";
        }
    }

    private static byte[] write(Message message, short version) {
        ObjectSerializationCache cache = new ObjectSerializationCache();
        ByteBuffer buffer = ByteBuffer.allocate(message.size(cache, version));
        message.write(new ByteBufferAccessor(buffer), cache, version);
        if (buffer.hasRemaining()) throw new IllegalStateException("shorter than its size");
        return buffer.array();
    }

    private static byte[] join(byte[] front, byte[] back) {
        return ByteBuffer.allocate(front.length + back.length).put(front).put(back).array();
    }

    private static Schema schema(Message message, short version) throws Exception {
        return ((Schema[]) message.getClass().getField("SCHEMAS").get(null))[version];
    }

    /** One random message: its frame as the generated classes write it, and as the schemas do. */
    private String line(String[] words) throws Exception {
        short version = Short.parseShort(words[3]);
        long seed = random.nextLong();
        byte[] plain = schemaFrame(words, version, seed, false);
        byte[] variant = schemaFrame(words, version, seed, true);
        byte[] canonical = recode(words, version, plain);
        return String.join(" ", words[0], words[1], words[2], words[3], HEX.formatHex(canonical), HEX.formatHex(variant));
    }

    private static byte[] schemaFrame(String[] words, short version, long seed, boolean unknownTags) throws Exception {
        Oracle oracle = new Oracle(seed);
        if (unknownTags) oracle.unknownTags = new Random(seed);
        byte[] front = {};
        Message header = newHeader(words);
        if (header != null) {
            Struct struct = (Struct) oracle.value(schema(header, headerVersion(words, version)), 0);
            if (words[0].equals("request")) struct.set("request_api_key", Short.parseShort(words[2])).set("request_api_version", version);
            front = write(struct);
        }
        return join(front, write((Struct) oracle.value(schema(newMessage(words), version), 0)));
    }

    private static byte[] write(Struct struct) {
        ByteBuffer buffer = ByteBuffer.allocate(struct.sizeOf());
        struct.writeTo(buffer);
        return buffer.array();
    }

    /** A random value of a type. */
    private Object value(Type type, int depth) {
        if (type.isNullable() && random.nextInt(4) == 0) return null;
        if (type instanceof Schema) return struct((Schema) type, depth);
        if (type instanceof TaggedFields) return tagged((TaggedFields) type, depth);
        if (type.isArray()) {
            Object[] elements = new Object[random.nextInt(depth > 2 ? 2 : 4)];
            for (int i = 0; i < elements.length; i++) elements[i] = value(type.arrayElementType().get(), depth + 1);
            return elements;
        }
        switch (type.toString().replace("COMPACT_", "").replace("NULLABLE_", "")) {
            case "BOOLEAN": return random.nextBoolean();
            case "INT8": return (byte) number();
            case "INT16": return (short) number();
            case "UINT16": return (int) number() & 0xffff;
            case "INT32": return (int) number();
            case "INT64": return number();
            case "FLOAT64": return (double) (int) number();
            case "UUID": return random.nextInt(8) == 0 ? Uuid.ZERO_UUID : new Uuid(random.nextLong(), random.nextLong());
            case "STRING": return text();
            case "BYTES": return ByteBuffer.wrap(bytes());
            case "RECORDS": return MemoryRecords.readableRecords(ByteBuffer.wrap(bytes()));
            default: throw new IllegalArgumentException("type " + type);
        }
    }

    private Struct struct(Schema schema, int depth) {
        Struct struct = new Struct(schema);
        for (BoundField field : schema.fields()) struct.set(field, value(field.def.type, depth));
        return struct;
    }

    private Object tagged(TaggedFields type, int depth) {
        Map<Integer, Object> values = new TreeMap<>();
        for (Map.Entry<Integer, Field> field : type.fields().entrySet()) {
            if (random.nextInt(3) > 0) values.put(field.getKey(), value(field.getValue().type, depth));
        }
        if (unknownTags != null && unknownTags.nextInt(3) == 0) {
            values.put(UNKNOWN_TAG, new RawTaggedField(UNKNOWN_TAG, new byte[unknownTags.nextInt(200)]));
        }
        return values;
    }

    private long number() {
        switch (random.nextInt(6)) {
            case 0: return -1;
            case 1: return random.nextLong();
            case 2: return random.nextBoolean() ? Long.MAX_VALUE : Long.MIN_VALUE;
            default: return random.nextInt(1000);
        }
    }

    private String text() {
        List<String> letters = List.of("a", "b", ".", "-", "7", "ß", "水", "🌊");
        int length = random.nextInt(20) == 0 ? 200 : random.nextInt(12);
        StringBuilder text = new StringBuilder();
        for (int i = 0; i < length; i++) text.append(letters.get(random.nextInt(letters.size())));
        return text.toString();
    }

    private byte[] bytes() {
        byte[] bytes = new byte[random.nextInt(20) == 0 ? 300 : random.nextInt(20)];
        random.nextBytes(bytes);
        return bytes;
    }
}
