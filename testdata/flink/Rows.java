import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.HexFormat;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.formats.avro.registry.confluent.debezium.DebeziumAvroDeserializationSchema;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.ObjectMapper;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.node.ArrayNode;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.node.ObjectNode;
import org.apache.flink.table.api.DataTypes;
import org.apache.flink.table.data.ArrayData;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.types.DataType;
import org.apache.flink.table.types.logical.ArrayType;
import org.apache.flink.table.types.logical.LogicalType;
import org.apache.flink.table.types.logical.RowType;
import org.apache.flink.util.Collector;

/**
 * Reads events with the deserializer of Flink's format debezium-avro-confluent. The argument is the registry's URL; each line of
 * standard input is the value of a record in hexadecimal. For each of them it prints a line of JSON: an array of the rows that
 * Flink makes of it, each its RowKind and the fields, or a string, what Flink complains of. A float is its bits.
 */
class Rows {
  /** The table as Flink SQL would declare it. */
  static final DataType TABLE = DataTypes.ROW(
      DataTypes.FIELD("id", DataTypes.INT().notNull()),
      DataTypes.FIELD("c_bool", DataTypes.BOOLEAN()),
      DataTypes.FIELD("c_int2", DataTypes.SMALLINT()),
      DataTypes.FIELD("c_int4", DataTypes.INT()),
      DataTypes.FIELD("c_int8", DataTypes.BIGINT()),
      DataTypes.FIELD("c_float4", DataTypes.FLOAT()),
      DataTypes.FIELD("c_float8", DataTypes.DOUBLE()),
      DataTypes.FIELD("c_numeric", DataTypes.DECIMAL(12, 2)),
      DataTypes.FIELD("c_text", DataTypes.STRING()),
      DataTypes.FIELD("c_varchar", DataTypes.VARCHAR(40)),
      DataTypes.FIELD("c_bytea", DataTypes.BYTES()),
      DataTypes.FIELD("c_date", DataTypes.DATE()),
      DataTypes.FIELD("c_time", DataTypes.BIGINT()),
      DataTypes.FIELD("c_timestamp", DataTypes.BIGINT()),
      DataTypes.FIELD("c_timestamptz", DataTypes.BIGINT()),
      DataTypes.FIELD("c_uuid", DataTypes.STRING()),
      DataTypes.FIELD("c_jsonb", DataTypes.STRING()),
      DataTypes.FIELD("c_enum", DataTypes.STRING()),
      DataTypes.FIELD("c_array", DataTypes.ARRAY(DataTypes.STRING())),
      // With `time: connect`, milliseconds, which are what Flink takes a TIME or TIMESTAMP to be.
      DataTypes.FIELD("m_time", DataTypes.TIME(3)),
      DataTypes.FIELD("m_timestamp", DataTypes.TIMESTAMP(3)),
      DataTypes.FIELD("m_timestamptz", DataTypes.TIMESTAMP(3)));

  public static void main(String[] args) throws Exception {
    RowType type = (RowType) TABLE.getLogicalType();
    RowData.FieldGetter[] getters = new RowData.FieldGetter[type.getFieldCount()];
    for (int i = 0; i < getters.length; i++) {
      getters[i] = RowData.createFieldGetter(type.getTypeAt(i), i);
    }
    var format = new DebeziumAvroDeserializationSchema(type, TypeInformation.of(RowData.class), args[0], null, null);
    format.open(null);
    ObjectMapper json = new ObjectMapper();
    BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line; (line = in.readLine()) != null; ) {
      ArrayNode rows = json.createArrayNode();
      Collector<RowData> out = new Collector<>() {
        @Override
        public void collect(RowData row) {
          ObjectNode o = rows.addObject().put("kind", row.getRowKind().shortString());
          ArrayNode fields = o.putArray("row");
          for (int i = 0; i < getters.length; i++) {
            put(fields, type.getTypeAt(i), getters[i].getFieldOrNull(row));
          }
        }

        @Override
        public void close() {}
      };
      try {
        format.deserialize(HexFormat.of().parseHex(line), out);
        System.out.println(json.writeValueAsString(rows));
      } catch (Exception e) {
        Throwable cause = e;
        while (cause.getCause() != null) {
          cause = cause.getCause();
        }
        System.out.println(json.writeValueAsString(cause.getMessage()));
      }
    }
  }

  static void put(ArrayNode fields, LogicalType type, Object v) {
    if (v == null) {
      fields.addNull();
    } else if (v instanceof ArrayData a) {
      LogicalType element = ((ArrayType) type).getElementType();
      ArrayData.ElementGetter getter = ArrayData.createElementGetter(element);
      ArrayNode elements = fields.addArray();
      for (int i = 0; i < a.size(); i++) {
        put(elements, element, getter.getElementOrNull(a, i));
      }
    } else if (v instanceof byte[] b) {
      fields.add(HexFormat.of().formatHex(b));
    } else if (v instanceof Float f) {
      fields.add(HexFormat.of().toHexDigits(Float.floatToIntBits(f)));
    } else if (v instanceof Double d) {
      fields.add(HexFormat.of().toHexDigits(Double.doubleToLongBits(d)));
    } else {
      fields.add(v.toString());
    }
  }
}
