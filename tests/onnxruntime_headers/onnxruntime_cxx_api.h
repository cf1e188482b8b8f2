// The part of onnxruntime's C++ API that examples/cpp uses, for machines without its headers.
//
// The C interface of onnxruntime is a table of functions that only grows at its end, so a slot
// keeps its number in all versions. The names are those of onnxruntime's own header.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

enum OrtLoggingLevel { ORT_LOGGING_LEVEL_WARNING = 2 };
enum OrtAllocatorType { OrtArenaAllocator = 1 };
enum OrtMemType { OrtMemTypeDefault = 0 };

extern "C" {
struct OrtApiBase {
  const void* const* (*GetApi)(std::uint32_t version);
  const char* (*GetVersionString)();
};
const OrtApiBase* OrtGetApiBase();
}

namespace Ort {

enum Slot : std::size_t {
  kGetErrorMessage = 2,
  kCreateEnv = 3,
  kCreateSession = 7,
  kRun = 9,
  kCreateSessionOptions = 10,
  kSetIntraOpNumThreads = 24,
  kSessionGetInputTypeInfo = 33,
  kSessionGetInputName = 36,
  kSessionGetOutputName = 37,
  kCreateTensorWithDataAsOrtValue = 49,
  kGetTensorMutableData = 51,
  kCastTypeInfoToTensorInfo = 55,
  kGetDimensionsCount = 61,
  kGetDimensions = 62,
  kGetTensorShapeElementCount = 64,
  kGetTensorTypeAndShape = 65,
  kCreateCpuMemoryInfo = 69,
  kAllocatorFree = 76,
  kGetAllocatorWithDefaultOptions = 78,
  kReleaseEnv = 92,
  kReleaseStatus = 93,
  kReleaseMemoryInfo = 94,
  kReleaseSession = 95,
  kReleaseValue = 96,
  kReleaseTypeInfo = 98,
  kReleaseTensorTypeAndShapeInfo = 99,
  kReleaseSessionOptions = 100,
};

inline const void* const* Table() {
  static const void* const* table = OrtGetApiBase()->GetApi(11);
  return table;
}

template <typename... Arguments>
void Call(Slot slot, Arguments... arguments) {
  using Function = void* (*)(Arguments...);
  void* status = reinterpret_cast<Function>(const_cast<void*>(Table()[slot]))(arguments...);
  if (status == nullptr) return;
  using Message = const char* (*)(const void*);
  using Release = void (*)(void*);
  const std::runtime_error error(
      reinterpret_cast<Message>(const_cast<void*>(Table()[kGetErrorMessage]))(status));
  reinterpret_cast<Release>(const_cast<void*>(Table()[kReleaseStatus]))(status);
  throw error;
}

template <Slot release>
class Handle {
 public:
  Handle() = default;
  explicit Handle(void* held) : held_(held) {}
  Handle(Handle&& other) noexcept : held_(std::exchange(other.held_, nullptr)) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(held_, other.held_);
    return *this;
  }
  ~Handle() {
    using Release = void (*)(void*);
    if (held_) reinterpret_cast<Release>(const_cast<void*>(Table()[release]))(held_);
  }
  void* get() const { return held_; }

 protected:
  void* held_ = nullptr;
};

class Env : public Handle<kReleaseEnv> {
 public:
  Env(OrtLoggingLevel level, const char* name) { Call(kCreateEnv, level, name, &held_); }
};

class SessionOptions : public Handle<kReleaseSessionOptions> {
 public:
  SessionOptions() { Call(kCreateSessionOptions, &held_); }
  SessionOptions& SetIntraOpNumThreads(int count) {
    Call(kSetIntraOpNumThreads, held_, count);
    return *this;
  }
};

struct RunOptions {
  explicit RunOptions(std::nullptr_t) {}
};

class AllocatorWithDefaultOptions {
 public:
  AllocatorWithDefaultOptions() { Call(kGetAllocatorWithDefaultOptions, &held_); }
  void* get() const { return held_; }

 private:
  void* held_ = nullptr;
};

class TensorTypeAndShapeInfo {
 public:
  explicit TensorTypeAndShapeInfo(const void* info, std::shared_ptr<void> owner)
      : info_(info), owner_(std::move(owner)) {}
  std::vector<std::int64_t> GetShape() const {
    std::size_t count = 0;
    Call(kGetDimensionsCount, info_, &count);
    std::vector<std::int64_t> shape(count);
    Call(kGetDimensions, info_, shape.data(), count);
    return shape;
  }
  std::size_t GetElementCount() const {
    std::size_t count = 0;
    Call(kGetTensorShapeElementCount, info_, &count);
    return count;
  }

 private:
  const void* info_;
  std::shared_ptr<void> owner_;
};

class TypeInfo {
 public:
  explicit TypeInfo(void* info) : held_(std::make_shared<Handle<kReleaseTypeInfo>>(info)) {}
  TensorTypeAndShapeInfo GetTensorTypeAndShapeInfo() const {
    const void* info = nullptr;
    Call(kCastTypeInfoToTensorInfo, static_cast<const void*>(held_->get()), &info);
    return TensorTypeAndShapeInfo(info, held_);
  }

 private:
  std::shared_ptr<Handle<kReleaseTypeInfo>> held_;
};

class MemoryInfo : public Handle<kReleaseMemoryInfo> {
 public:
  static MemoryInfo CreateCpu(OrtAllocatorType type, OrtMemType memory) {
    MemoryInfo made;
    Call(kCreateCpuMemoryInfo, type, memory, &made.held_);
    return made;
  }
};

class Value : public Handle<kReleaseValue> {
 public:
  using Handle::Handle;
  template <typename Number>
  static Value CreateTensor(const MemoryInfo& memory, Number* data, std::size_t count,
                            const std::int64_t* shape, std::size_t sides) {
    static_assert(sizeof(Number) == 4, "float32 is type 1");
    Value made;
    Call(kCreateTensorWithDataAsOrtValue, static_cast<const void*>(memory.get()),
         static_cast<void*>(data), count * sizeof(Number), shape, sides, 1, &made.held_);
    return made;
  }
  template <typename Number>
  const Number* GetTensorData() const {
    Number* data = nullptr;
    Call(kGetTensorMutableData, held_, reinterpret_cast<void**>(&data));
    return data;
  }
  TensorTypeAndShapeInfo GetTensorTypeAndShapeInfo() const {
    void* info = nullptr;
    Call(kGetTensorTypeAndShape, static_cast<const void*>(held_), &info);
    auto owner = std::make_shared<Handle<kReleaseTensorTypeAndShapeInfo>>(info);
    return TensorTypeAndShapeInfo(info, owner);
  }
};

class Name {
 public:
  Name(char* text, void* allocator) : text_(text), allocator_(allocator) {}
  Name(Name&& other) noexcept
      : text_(std::exchange(other.text_, nullptr)), allocator_(other.allocator_) {}
  ~Name() {
    if (text_) Call(kAllocatorFree, allocator_, static_cast<void*>(text_));
  }
  const char* get() const { return text_; }

 private:
  char* text_;
  void* allocator_;
};

class Session : public Handle<kReleaseSession> {
 public:
  Session(const Env& env, const char* path, const SessionOptions& options) {
    Call(kCreateSession, static_cast<const void*>(env.get()), path,
         static_cast<const void*>(options.get()), &held_);
  }
  Name GetInputNameAllocated(std::size_t index, const AllocatorWithDefaultOptions& a) const {
    return GetName(kSessionGetInputName, index, a);
  }
  Name GetOutputNameAllocated(std::size_t index, const AllocatorWithDefaultOptions& a) const {
    return GetName(kSessionGetOutputName, index, a);
  }
  TypeInfo GetInputTypeInfo(std::size_t index) const {
    void* info = nullptr;
    Call(kSessionGetInputTypeInfo, static_cast<const void*>(held_), index, &info);
    return TypeInfo(info);
  }
  std::vector<Value> Run(const RunOptions&, const char* const* names, const Value* inputs,
                         std::size_t count, const char* const* outputs, std::size_t wanted) {
    std::vector<const void*> given;
    for (std::size_t k = 0; k < count; ++k) given.push_back(inputs[k].get());
    std::vector<void*> made(wanted, nullptr);
    Call(kRun, held_, static_cast<const void*>(nullptr), names, given.data(), count, outputs,
         wanted, made.data());
    std::vector<Value> results;
    for (void* each : made) results.emplace_back(each);
    return results;
  }

 private:
  Name GetName(Slot slot, std::size_t index, const AllocatorWithDefaultOptions& a) const {
    char* text = nullptr;
    Call(slot, static_cast<const void*>(held_), index, a.get(), &text);
    return Name(text, a.get());
  }
};

}  // namespace Ort
