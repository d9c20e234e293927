import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.BufferedWriter;
import java.io.InputStreamReader;
import java.io.OutputStreamWriter;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.HashSet;
import java.util.Set;
import org.apache.avro.JsonProperties;
import org.apache.avro.LogicalType;
import org.apache.avro.LogicalTypes;
import org.apache.avro.NameValidator;
import org.apache.avro.Schema;
import org.apache.avro.SchemaCompatibility;
import org.apache.avro.SchemaCompatibility.Incompatibility;

/**
 * Answers what Avro's Java implementation, and Confluent's registry above it, say of schemas. Each line of standard input is a
 * question in JSON, each line of standard output its answer, in the same order:
 *
 * {"op":"parse","schema":TEXT,"references":[TEXT…],"stored":BOOLEAN} → {"text":Schema.toString,"normal":the text that ?normalize=true stores},
 * with "lost" in the place of "normal" where Confluent's registry loses a default or a namespace, or fails.
 * {"op":"compare","reader":TEXT,"writer":TEXT} → {"found":[[type,location,message]…]}
 * {"op":"check","level":LEVEL,"schema":TEXT,"history":[TEXT…]} → {"found":[message…],"version":the version that objects}
 *
 * {"error":MESSAGE} where Java throws. Schemas are parsed as AvroSchema.java does: a new one strictly, with its defaults, one that
 * is stored or of the history without either.
 */
class Oracle {
  static final ObjectMapper JSON = new ObjectMapper();

  public static void main(String[] args) throws Exception {
    BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    BufferedWriter out = new BufferedWriter(new OutputStreamWriter(System.out, StandardCharsets.UTF_8));
    for (String line; (line = in.readLine()) != null;) {
      ObjectNode answer = JSON.createObjectNode();
      try {
        answer(JSON.readTree(line), answer);
      } catch (Exception | StackOverflowError e) {
        answer.removeAll();
        answer.put("error", String.valueOf(e.getMessage()));
      }
      out.write(JSON.writeValueAsString(answer));
      out.newLine();
      if (!in.ready()) {
        out.flush();
      }
    }
    out.flush();
  }

  static void answer(JsonNode question, ObjectNode answer) {
    switch (question.get("op").textValue()) {
      case "parse" -> {
        List<String> references = texts(question.get("references"));
        boolean isNew = !question.path("stored").asBoolean();
        Schema schema = parse(question.get("schema").textValue(), isNew, references);
        answer.put("text", canonical(schema, references));
        try {
          Schema normal = parse(normalized(schema, references), isNew, references);
          if (!names(schema, new ArrayList<>()).equals(names(normal, new ArrayList<>()))) {
            throw new IllegalStateException("Confluent's registry changes the namespace of a type");
          }
          answer.put("normal", canonical(normal, references));
        } catch (RuntimeException e) {
          answer.put("lost", String.valueOf(e.getMessage()));
        }
      }
      case "compare" -> {
        Schema reader = parse(question.get("reader").textValue(), true, List.of());
        Schema writer = parse(question.get("writer").textValue(), true, List.of());
        ArrayNode found = answer.putArray("found");
        for (Incompatibility i : incompatibilities(reader, writer)) {
          found.addArray().add(i.getType().toString()).add(i.getLocation()).add(i.getMessage());
        }
      }
      case "check" -> {
        Schema schema = parse(question.get("schema").textValue(), true, List.of());
        List<Schema> history = new ArrayList<>();
        for (String text : texts(question.get("history"))) {
          history.add(parse(text, false, List.of()));
        }
        check(question.get("level").textValue(), schema, history, answer);
      }
      default -> throw new IllegalArgumentException("unknown question");
    }
  }

  static List<String> texts(JsonNode list) {
    List<String> texts = new ArrayList<>();
    if (list != null) {
      list.forEach(n -> texts.add(n.textValue()));
    }
    return texts;
  }

  static List<Incompatibility> incompatibilities(Schema reader, Schema writer) {
    return SchemaCompatibility.checkReaderWriterCompatibility(reader, writer).getResult().getIncompatibilities();
  }

  // AvroSchema.getParser and its constructor.
  static Schema parse(String text, boolean isNew, List<String> references) {
    Schema.Parser parser = new Schema.Parser(isNew ? NameValidator.STRICT_VALIDATOR : NameValidator.NO_VALIDATION);
    parser.setValidateDefaults(isNew);
    references.forEach(parser::parse);
    Schema schema = parser.parse(text);
    if (!isNew) {
      validateNames(schema, new HashSet<>());
    }
    return schema;
  }

  // AvroSchemaUtils.validateNames.
  static void validateNames(Schema s, Set<String> seen) {
    switch (s.getType()) {
      case UNION -> s.getTypes().forEach(b -> validateNames(b, seen));
      case ARRAY -> validateNames(s.getElementType(), seen);
      case MAP -> validateNames(s.getValueType(), seen);
      case RECORD, ENUM, FIXED -> {
        if (!seen.add(s.getFullName())) {
          return;
        }
        validateName(s.getName());
        if (s.getType() == Schema.Type.ENUM) {
          s.getEnumSymbols().forEach(Oracle::validateName);
        } else if (s.getType() == Schema.Type.RECORD) {
          s.getFields().forEach(f -> validateName(f.name()));
          s.getFields().forEach(f -> validateNames(f.schema(), seen));
        }
      }
      default -> { }
    }
  }

  static void validateName(String name) {
    if (!NameValidator.UTF_VALIDATOR.validate(name).isOK()) {
      throw new IllegalArgumentException("Illegal name: " + name);
    }
  }

  // AvroSchema.canonicalString.
  static String canonical(Schema schema, List<String> references) {
    Schema.Parser parser = new Schema.Parser(NameValidator.NO_VALIDATION).setValidateDefaults(false);
    List<Schema> known = new ArrayList<>();
    references.forEach(text -> known.add(parser.parse(text)));
    return schema.toString(known, false);
  }

  // CompatibilityChecker and SchemaValidatorBuilder: the newest version first, only that one unless the level is transitive,
  // and the first that has something against the schema ends the search.
  static void check(String level, Schema schema, List<Schema> history, ObjectNode answer) {
    ArrayNode found = answer.putArray("found");
    if (level.equals("NONE")) {
      return;
    }
    for (int i = history.size() - 1; i >= 0; i--) {
      Schema old = history.get(i);
      List<String> messages = List.of();
      if (level.startsWith("FORWARD") || level.startsWith("FULL")) {
        messages = messages(old, schema, "old", "new");
        messages.forEach(found::add);
      }
      if (level.startsWith("BACKWARD") || level.startsWith("FULL")) {
        messages = messages(schema, old, "new", "old");
        messages.forEach(found::add);
      }
      if (!messages.isEmpty()) { // those of mutualReadStrategy's first half do not count
        found.add("{oldSchemaVersion: " + (i + 1) + "}").add("{oldSchema: '" + old + "'}");
      }
      if (!found.isEmpty()) {
        answer.put("version", i + 1);
        found.add("{validateFields: 'false', compatibility: '" + level + "'}"); // AbstractSchemaRegistry.isCompatibleWithPrevious
      }
      if (!found.isEmpty() || !level.endsWith("_TRANSITIVE")) {
        return;
      }
    }
  }

  // AvroSchema.isBackwardCompatible, Difference.error and SchemaValidatorBuilder.formatErrorMessages.
  static List<String> messages(Schema reader, Schema writer, String readerName, String writerName) {
    List<String> messages = new ArrayList<>();
    try {
      for (Incompatibility i : incompatibilities(reader, writer)) {
        String path = i.getLocation();
        String text = switch (i.getType()) {
          case FIXED_SIZE_MISMATCH -> "The size of FIXED type field at path '" + path + "' in the %s schema does not match with the %s schema";
          case TYPE_MISMATCH -> "The type (path '" + path + "') of a field in the %s schema does not match with the %s schema";
          case NAME_MISMATCH -> "The name of the schema has changed (path '" + path + "')";
          case MISSING_ENUM_SYMBOLS -> "The %s schema is missing enum symbols '" + i.getMessage() + "' at path '" + path + "' in the %s schema";
          case MISSING_UNION_BRANCH -> "The %s schema is missing a type inside a union field at path '" + path + "' in the %s schema";
          case READER_FIELD_MISSING_DEFAULT_VALUE -> "The field '" + i.getMessage() + "' at path '" + path
              + "' in the %s schema has no default value and is missing in the %s schema";
        };
        messages.add(String.format("{errorType:'" + i.getType() + "', description:'" + text + "', additionalInfo:'" + i.getMessage()
            + "'}", readerName, writerName));
      }
    } catch (Exception e) {
      messages.clear();
      messages.add("Unexpected exception during compatibility check: " + e.getMessage());
    }
    return messages;
  }

  // names lists the named types in the order in which they are met.
  static List<String> names(Schema s, List<String> names) {
    switch (s.getType()) {
      case UNION -> s.getTypes().forEach(b -> names(b, names));
      case ARRAY -> names(s.getElementType(), names);
      case MAP -> names(s.getValueType(), names);
      case RECORD, ENUM, FIXED -> {
        boolean known = names.contains(s.getFullName());
        names.add(s.getFullName());
        if (!known && s.getType() == Schema.Type.RECORD) {
          s.getFields().forEach(f -> names(f.schema(), names));
        }
      }
      default -> { }
    }
    return names;
  }

  // AvroSchemaUtils.toNormalizedString.
  static String normalized(Schema schema, List<String> references) {
    Set<String> known = new HashSet<>();
    Schema.Parser parser = new Schema.Parser(NameValidator.STRICT_VALIDATOR);
    references.forEach(text -> known.add(parser.parse(text).getFullName()));
    return normal(known, schema).toString();
  }

  static JsonNode normal(Set<String> known, Schema s) {
    LogicalType logical = s.getLogicalType();
    ObjectNode o = JSON.createObjectNode();
    switch (s.getType()) {
      case UNION: {
        ArrayNode branches = JSON.createArrayNode();
        s.getTypes().forEach(b -> branches.add(normal(known, b)));
        return branches;
      }
      case ARRAY:
        o.put("type", "array").set("items", normal(known, s.getElementType()));
        break;
      case MAP:
        o.put("type", "map").set("values", normal(known, s.getValueType()));
        break;
      case RECORD, ENUM, FIXED: {
        if (!known.add(s.getFullName())) {
          return JSON.getNodeFactory().textNode(s.getFullName());
        }
        o.put("name", s.getFullName()).put("type", s.getType().getName());
        if (s.getType() == Schema.Type.ENUM) {
          ArrayNode symbols = o.putArray("symbols");
          s.getEnumSymbols().forEach(symbols::add);
        } else if (s.getType() == Schema.Type.FIXED) {
          o.put("size", s.getFixedSize());
        } else {
          ArrayNode fields = o.putArray("fields");
          s.getFields().forEach(f -> fields.add(normalField(known, f)));
        }
        setLogical(o, logical);
        if (s.getDoc() != null && !s.getDoc().isEmpty()) {
          o.put("doc", s.getDoc());
        }
        setAliases(o, s.getAliases());
        if (s.getType() == Schema.Type.ENUM && s.getEnumDefault() != null) {
          o.put("default", s.getEnumDefault());
        }
        setProperties(o, s);
        return o;
      }
      default:
        if (logical == null && !s.hasProps()) {
          return JSON.getNodeFactory().textNode(s.getType().getName());
        }
        o.put("type", s.getType().getName());
    }
    setLogical(o, logical);
    setProperties(o, s);
    return o;
  }

  static JsonNode normalField(Set<String> known, Schema.Field f) {
    ObjectNode o = JSON.createObjectNode();
    o.put("name", f.name()).set("type", normal(known, f.schema()));
    o.put("order", f.order().toString());
    if (f.doc() != null) {
      o.put("doc", f.doc());
    }
    setAliases(o, f.aliases());
    if (f.defaultVal() != null) {
      o.set("default", tree(f.defaultVal()));
    } else if (f.hasDefaultValue()) {
      throw new IllegalStateException("Confluent's registry drops the default of " + f);
    }
    setProperties(o, f);
    return o;
  }

  static void setLogical(ObjectNode o, LogicalType logical) {
    if (logical == null) {
      return;
    }
    o.put("logicalType", logical.getName());
    if (logical instanceof LogicalTypes.Decimal decimal) {
      o.put("precision", decimal.getPrecision());
      if (decimal.getScale() != 0) {
        o.put("scale", decimal.getScale());
      }
    }
  }

  static void setAliases(ObjectNode o, Set<String> aliases) {
    if (!aliases.isEmpty()) {
      ArrayNode list = o.putArray("aliases");
      new TreeSet<>(aliases).forEach(list::add);
    }
  }

  static void setProperties(ObjectNode o, JsonProperties s) {
    // The text has members twice where a logical type's attributes are properties too. The first place and the last value count.
    new TreeMap<>(s.getObjectProps()).forEach((key, value) -> o.set(key, tree(value)));
  }

  // AvroSchemaUtils.genJson.
  static JsonNode tree(Object datum) {
    if (datum == JsonProperties.NULL_VALUE) {
      return JSON.getNodeFactory().nullNode();
    } else if (datum instanceof Map<?, ?> map) {
      // Its mapper sorts the members of every object.
      ObjectNode o = JSON.createObjectNode();
      TreeMap<String, Object> sorted = new TreeMap<>();
      map.forEach((key, value) -> sorted.put(key.toString(), value));
      sorted.forEach((key, value) -> o.set(key, tree(value)));
      return o;
    } else if (datum instanceof Iterable<?> list) {
      ArrayNode a = JSON.createArrayNode();
      list.forEach(item -> a.add(tree(item)));
      return a;
    } else if (datum instanceof byte[] bytes) {
      return JSON.getNodeFactory().textNode(new String(bytes, StandardCharsets.ISO_8859_1));
    } else if (datum == null) {
      throw new IllegalArgumentException("Unknown datum class: null");
    }
    return JSON.valueToTree(datum);
  }
}
