import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.time.Duration;
import java.time.Instant;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.Map;
import java.util.concurrent.atomic.AtomicBoolean;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.AggregateFunction;
import org.apache.flink.api.common.serialization.DeserializationSchema;
import org.apache.flink.api.common.serialization.SimpleStringEncoder;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.connector.sink2.Sink;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.connector.file.sink.FileSink;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.connector.kafka.source.reader.deserializer.KafkaRecordDeserializationSchema;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.sink.filesystem.OutputFileConfig;
import org.apache.flink.streaming.api.functions.sink.filesystem.rollingpolicies.OnCheckpointRollingPolicy;
import org.apache.flink.streaming.api.functions.windowing.ProcessWindowFunction;
import org.apache.flink.streaming.api.windowing.assigners.TumblingEventTimeWindows;
import org.apache.flink.streaming.api.windowing.windows.TimeWindow;
import org.apache.flink.util.Collector;
import org.apache.kafka.clients.consumer.ConsumerRecord;

/**
 * The job on Flink's DataStream API, in a local cluster: heap state, a checkpoint every ten seconds, exactly-once files of NDJSON.
 * A partition's watermark is ten minutes behind its latest event time, so that a window fires once, as the other peers' do.
 */
public final class Job {
    private static final long LATENESS_MS = 600_000;
    private static final Duration WINDOW = Duration.ofMinutes(1);
    private static final AtomicBoolean FIRST = new AtomicBoolean();

    /** One scored row; public fields without arguments to construct, so that Flink serialises it as a POJO. */
    public static class Reading {
        public String patient;
        public long atMs;
        public double systolic;
        public double diastolic;
        public String category;
        public double probability;

        String line() {
            return "{\"patient\":\"" + patient + "\",\"effective_at\":\"" + Instant.ofEpochMilli(atMs)
                    + "\",\"systolic_mmhg\":" + systolic + ",\"diastolic_mmhg\":" + diastolic
                    + ",\"category\":\"" + category + "\",\"probability\":" + probability + "}";
        }
    }

    /** Sums of one window. */
    public static class Sums {
        public long count;
        public double systolic;
        public double systolicMin = Double.POSITIVE_INFINITY;
        public double systolicMax = Double.NEGATIVE_INFINITY;
        public double diastolic;
        public double diastolicMin = Double.POSITIVE_INFINITY;
        public double diastolicMax = Double.NEGATIVE_INFINITY;

        String line(String patient, long startMs) {
            return "{\"patient\":\"" + patient + "\",\"window_start\":\"" + Instant.ofEpochMilli(startMs) + "\""
                    + pressure("systolic", systolic, systolicMin, systolicMax)
                    + pressure("diastolic", diastolic, diastolicMin, diastolicMax) + "}";
        }

        private String pressure(String name, double sum, double min, double max) {
            return ",\"" + name + "_count\":" + count + ",\"" + name + "_mean_mmhg\":" + sum / count
                    + ",\"" + name + "_min_mmhg\":" + min + ",\"" + name + "_max_mmhg\":" + max;
        }
    }

    /**
     * Parses, sorts into a band, scores, pseudonymises. All of it as the message is taken from Kafka: only what the source knows
     * the time of has a watermark for each partition.
     */
    public static class Score implements KafkaRecordDeserializationSchema<Reading> {
        private final byte[] key;
        private final double[] model;
        private transient ObjectMapper mapper;
        private transient Mac mac;

        Score(byte[] key, double[] model) {
            this.key = key;
            this.model = model;
        }

        @Override
        public void open(DeserializationSchema.InitializationContext context) throws GeneralSecurityException {
            mapper = new ObjectMapper();
            mac = Mac.getInstance("HmacSHA256");
            mac.init(new SecretKeySpec(key, "HmacSHA256"));
        }

        @Override
        public void deserialize(ConsumerRecord<byte[], byte[]> message, Collector<Reading> out) throws IOException {
            if (!FIRST.get() && FIRST.compareAndSet(false, true)) {
                // The harness is told that the start is over.
                System.out.println("first");
                System.out.flush();
            }
            JsonNode observation = mapper.readTree(message.value());
            if (!observation.path("resourceType").asText().equals("Observation")) {
                return;
            }
            double systolic = pressure(observation, "8480-6");
            double diastolic = pressure(observation, "8462-4");
            if (Double.isNaN(systolic) || Double.isNaN(diastolic)) {
                return;
            }
            Reading reading = new Reading();
            reading.patient = pseudonym(observation.path("subject").path("reference").asText());
            reading.atMs = Instant.parse(observation.path("effectiveDateTime").asText()).toEpochMilli();
            reading.systolic = systolic;
            reading.diastolic = diastolic;
            reading.category = category(systolic, diastolic);
            reading.probability = 1 / (1 + Math.exp(-(model[0] + model[1] * systolic + model[2] * diastolic)));
            out.collect(reading);
        }

        @Override
        public TypeInformation<Reading> getProducedType() {
            return TypeInformation.of(Reading.class);
        }

        private String pseudonym(String reference) {
            byte[] digest = mac.doFinal(reference.getBytes(StandardCharsets.UTF_8));
            return HexFormat.of().formatHex(digest, 0, 16);
        }
    }

    /** The value of the component with this LOINC code; NaN if there is none. */
    static double pressure(JsonNode observation, String code) {
        for (JsonNode component : observation.path("component")) {
            for (JsonNode coding : component.path("code").path("coding")) {
                if (coding.path("system").asText().equals("http://loinc.org") && coding.path("code").asText().equals(code)) {
                    return component.path("valueQuantity").path("value").asDouble(Double.NaN);
                }
            }
        }
        return Double.NaN;
    }

    /** The band of ACC/AHA 2017. */
    static String category(double systolic, double diastolic) {
        if (systolic > 180 || diastolic > 120) {
            return "crisis";
        }
        if (systolic >= 140 || diastolic >= 90) {
            return "stage 2";
        }
        if (systolic >= 130 || diastolic >= 80) {
            return "stage 1";
        }
        return systolic >= 120 ? "elevated" : "normal";
    }

    /** Adds readings up. */
    public static class Add implements AggregateFunction<Reading, Sums, Sums> {
        @Override
        public Sums createAccumulator() {
            return new Sums();
        }

        @Override
        public Sums add(Reading reading, Sums sums) {
            sums.count++;
            sums.systolic += reading.systolic;
            sums.systolicMin = Math.min(sums.systolicMin, reading.systolic);
            sums.systolicMax = Math.max(sums.systolicMax, reading.systolic);
            sums.diastolic += reading.diastolic;
            sums.diastolicMin = Math.min(sums.diastolicMin, reading.diastolic);
            sums.diastolicMax = Math.max(sums.diastolicMax, reading.diastolic);
            return sums;
        }

        @Override
        public Sums getResult(Sums sums) {
            return sums;
        }

        @Override
        public Sums merge(Sums one, Sums other) {
            throw new UnsupportedOperationException("tumbling windows do not merge");
        }
    }

    /** Gives a window its patient and its start. */
    public static class Row extends ProcessWindowFunction<Sums, String, String, TimeWindow> {
        @Override
        public void process(String patient, Context context, Iterable<Sums> sums, Collector<String> out) {
            out.collect(sums.iterator().next().line(patient, context.window().getStart()));
        }
    }

    private static Sink<String> files(String folder) {
        return FileSink.forRowFormat(new org.apache.flink.core.fs.Path(folder), new SimpleStringEncoder<String>())
                .withRollingPolicy(OnCheckpointRollingPolicy.build())
                .withOutputFileConfig(OutputFileConfig.builder()
                        .withPartSuffix(".ndjson").build())
                .build();
    }

    /** Offset and slopes of model.json: standardising is linear, so it can be done once. */
    private static double[] model(Path file) throws IOException {
        JsonNode content = new ObjectMapper().readTree(Files.readAllBytes(file));
        double[] numbers = {content.path("intercept").asDouble(), 0, 0};
        for (int at = 0; at < 2; at++) {
            JsonNode term = content.path("features").get(at);
            numbers[at + 1] = term.path("coefficient").asDouble() / term.path("scale").asDouble();
            numbers[0] -= numbers[at + 1] * term.path("mean").asDouble();
        }
        return numbers;
    }

    public static void main(String[] words) throws Exception {
        Map<String, String> given = new HashMap<>();
        for (int at = 0; at + 1 < words.length; at += 2) {
            given.put(words[at], words[at + 1]);
        }
        byte[] key = HexFormat.of().parseHex(Files.readString(Path.of(given.get("--key-file"))).strip());
        Configuration settings = new Configuration();
        settings.setString("taskmanager.memory.network.min", "128mb");
        settings.setString("taskmanager.memory.network.max", "128mb");
        settings.setString("execution.checkpointing.dir", "file://" + given.get("--output") + "/checkpoints");
        settings.setString("pipeline.object-reuse", "true");
        StreamExecutionEnvironment flow =
                StreamExecutionEnvironment.createLocalEnvironment(Integer.parseInt(given.get("--workers")), settings);
        flow.enableCheckpointing(10_000);
        KafkaSource<Reading> source = KafkaSource.<Reading>builder()
                .setBootstrapServers(given.get("--brokers"))
                .setTopics(given.get("--topic"))
                .setGroupId("peers-flink")
                .setStartingOffsets(OffsetsInitializer.earliest())
                .setBounded(OffsetsInitializer.latest())
                .setDeserializer(new Score(key, model(Path.of(given.get("--model")))))
                .build();
        WatermarkStrategy<Reading> behind = WatermarkStrategy.<Reading>forBoundedOutOfOrderness(Duration.ofMillis(LATENESS_MS))
                .withTimestampAssigner((reading, before) -> reading.atMs);
        DataStream<Reading> readings = flow.fromSource(source, behind, "source");
        readings.map(Reading::line).sinkTo(files(given.get("--output") + "/readings"));
        readings.keyBy(reading -> reading.patient)
                .window(TumblingEventTimeWindows.of(WINDOW))
                .aggregate(new Add(), new Row())
                .sinkTo(files(given.get("--output") + "/windows"));
        flow.execute("blood_pressure");
    }
}
